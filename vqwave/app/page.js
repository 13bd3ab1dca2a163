// One sound at a time; a line that runs over its pictures, where a click moves it; files saved without the server; files
// dropped where a microphone is shown; what is new brought into view.
"use strict";
(() => {
  const within = (event, place) => (event.target instanceof Element ? event.target.closest(place) : null);

  window.vqwave = {
    show: (place) => setTimeout(() => { // once it is there
      document.querySelector(place)?.scrollIntoView({ block: "nearest", behavior: "smooth" });
    }, 100),
  };

  const follow = (card, audio) => {
    card.classList.add("vq-playing");
    card.querySelector(".vq-head").style.left = `${(100 * audio.currentTime) / (audio.duration || 1)}%`;
    if (!audio.paused) requestAnimationFrame(() => follow(card, audio));
  };
  document.addEventListener("play", (event) => {
    for (const other of document.querySelectorAll("audio")) if (other !== event.target) other.pause();
    const card = within(event, ".vq-card");
    if (card) follow(card, event.target);
  }, true);
  document.addEventListener("seeked", (event) => {
    const card = within(event, ".vq-card");
    if (card) follow(card, event.target);
  }, true);
  document.addEventListener("click", (event) => {
    const lanes = within(event, ".vq-lanes");
    if (lanes) {
      const audio = lanes.closest(".vq-card").querySelector("audio"), box = lanes.getBoundingClientRect();
      audio.currentTime = ((event.clientX - box.left) / box.width) * (audio.duration || 0);
      audio.play();
    }
    const link = within(event, "a.vq-save");
    if (link && link.href.startsWith("data:")) { // browsers limit the length of what a link may save
      event.preventDefault();
      const [head, body] = link.href.split(",");
      const bytes = Uint8Array.from(atob(body), (letter) => letter.charCodeAt(0));
      const saved = document.createElement("a");
      saved.href = URL.createObjectURL(new Blob([bytes], { type: head.slice(5).split(";")[0] }));
      saved.download = link.download;
      saved.click();
      setTimeout(() => URL.revokeObjectURL(saved.href), 60000);
    }
  }, true);
  document.addEventListener("dragenter", (event) => {
    const block = within(event, ".block"), upload = block?.querySelector("button[aria-label='Upload file']");
    const files = event.dataTransfer?.types.includes("Files");
    if (files && upload && !block.querySelector("input[type=file]")) upload.click();
  });
})();
