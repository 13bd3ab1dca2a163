// A stretch of frames is chosen by a finger or mouse that is drawn over the codes.
let start = null;
const place = (event) => {
  const codes = event.target.closest(".vq-codes");
  if (!codes) return null;
  const box = codes.getBoundingClientRect(), frames = Number(codes.closest(".vq-strip").dataset.frames);
  const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  return { codes, frames, frame: Math.min(frames - 1, Math.floor(share * frames)) };
};
const span = (end) => [Math.min(start, end.frame), Math.max(start, end.frame) + 1];
element.addEventListener("pointerdown", (event) => {
  const at = place(event);
  if (at) start = at.frame;
});
element.addEventListener("pointermove", (event) => {
  const at = place(event), mark = element.querySelector(".vq-mark");
  if (start === null || !at || !mark) return;
  const [first, last] = span(at);
  mark.style.left = `${(100 * first) / at.frames}%`;
  mark.style.width = `${(100 * (last - first)) / at.frames}%`;
});
element.addEventListener("pointerup", (event) => {
  const at = place(event);
  if (start !== null && at) {
    const [first, last] = span(at);
    trigger("select", { first, last });
  }
  start = null;
});
element.addEventListener("pointerleave", () => { start = null; });
