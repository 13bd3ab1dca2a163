// One small button instead of the browser's player, and a line that runs over the spectrogram. Without scripts the browser's
// own players stay.
"use strict";
const PLAY = '<svg viewBox="0 0 12 12" aria-hidden="true"><path d="M2.5 0.8v10.4L11 6z"/></svg>';
const STOP = '<svg viewBox="0 0 12 12" aria-hidden="true"><path d="M1.5 1.5h9v9h-9z"/></svg>';
let current = null;

for (const clip of document.querySelectorAll(".clip")) {
  const audio = clip.querySelector("audio"), sound = clip.querySelector(".sound"), head = clip.querySelector(".head");
  const button = document.createElement("button");
  const name = audio.getAttribute("aria-label");
  button.className = "play";
  button.type = "button";

  const show = (playing) => {
    clip.classList.toggle("playing", playing);
    button.innerHTML = playing ? STOP : PLAY;
    button.setAttribute("aria-label", `${playing ? "Stop" : "Play"} ${name}`);
  };
  const follow = () => {
    if (audio.paused) return;
    head.style.left = `${100 * audio.currentTime / (audio.duration || 1)}%`;
    requestAnimationFrame(follow);
  };
  const stop = () => { audio.pause(); audio.currentTime = 0; };
  const play = (share) => {
    if (current && current !== audio) { current.pause(); current.currentTime = 0; }
    current = audio;
    const start = () => { audio.currentTime = share * audio.duration; audio.play(); };
    if (audio.readyState > 0) start();
    else { audio.addEventListener("loadedmetadata", start, { once: true }); audio.load(); }
  };

  button.addEventListener("click", () => (audio.paused ? play(0) : stop()));
  sound.addEventListener("click", (event) => play(event.offsetX / sound.clientWidth));
  audio.addEventListener("play", () => { show(true); follow(); });
  audio.addEventListener("pause", () => show(false));
  audio.removeAttribute("controls");
  audio.before(button);
  show(false);
}
