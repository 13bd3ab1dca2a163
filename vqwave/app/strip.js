// A stretch of frames is chosen by a finger or mouse that is drawn over the codes, wherever it is released; it grows to
// whole pitch codes, as edits do.
let start = null, before = null; // the frame where it began; how the mark was then
const find = (place) => element.querySelector(place);
const frameAt = (event) => {
  const box = find(".vq-codes").getBoundingClientRect(), frames = Number(find(".vq-strip").dataset.frames);
  return Math.min(frames - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * frames)));
};
const span = (event) => {
  const { frames, ratio } = find(".vq-strip").dataset, end = frameAt(event);
  const first = Math.floor(Math.min(start, end) / ratio), last = Math.floor(Math.max(start, end) / ratio) + 1;
  return [first * ratio, Math.min(frames, last * ratio)];
};
const draw = (event) => {
  const [first, last] = span(event), mark = find(".vq-mark"), frames = Number(find(".vq-strip").dataset.frames);
  mark.style.left = `${(100 * first) / frames}%`;
  mark.style.width = `${(100 * (last - first)) / frames}%`;
  mark.classList.add("vq-drawn");
};
element.addEventListener("pointerdown", (event) => {
  if (!event.isPrimary || event.button !== 0 || !event.target.closest(".vq-codes") || !find(".vq-mark")) return;
  start = frameAt(event);
  before = find(".vq-mark").cloneNode();
  element.setPointerCapture(event.pointerId); // its events come here from outside, too
  draw(event);
});
element.addEventListener("pointermove", (event) => {
  if (start !== null && event.isPrimary && find(".vq-mark")) draw(event);
});
element.addEventListener("pointerup", (event) => {
  if (start === null || !event.isPrimary) return;
  const [first, last] = find(".vq-mark") ? span(event) : [];
  start = null;
  if (last) trigger("select", { first, last });
});
element.addEventListener("pointercancel", () => { // the page is scrolled instead
  if (start !== null) find(".vq-mark")?.replaceWith(before);
  start = null;
});
