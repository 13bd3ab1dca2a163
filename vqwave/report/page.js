// Small buttons instead of the browser's players, a line that runs over the spectrograms, sounds of one utterance at one
// level and at one position in time, and a page that takes over its newer version. Without scripts, or without Web Audio,
// the browser's own players stay.
"use strict";
const PLAY = '<svg viewBox="0 0 12 12" aria-hidden="true"><path d="M2.5 0.8v10.4L11 6z"/></svg>';
const STOP = '<svg viewBox="0 0 12 12" aria-hidden="true"><path d="M1.5 1.5h9v9h-9z"/></svg>';
const FADE = 0.006; // seconds: a switch without a click

// What plays, or would: `clip` at `position` seconds. `source` is there while it plays.
const now = { clip: null, position: 0, started: 0, source: null, gain: null };
const sounds = new WeakMap(); // clip -> promise of its samples
let output = null;

function decoded(clip) {
  if (!sounds.has(clip)) {
    const uri = clip.querySelector("audio").src;
    const bytes = Uint8Array.from(atob(uri.slice(uri.indexOf(",") + 1)), (letter) => letter.charCodeAt(0));
    sounds.set(clip, output.decodeAudioData(bytes.buffer));
  }
  return sounds.get(clip);
}
const group = (clip) => [...clip.closest(".utterance").querySelectorAll(".clip")];
const position = () => (now.source ? now.position + output.currentTime - now.started : now.position);

function silence() {
  const { source, gain } = now;
  if (!source) return;
  now.position = position();
  now.source = null;
  source.onended = null;
  gain.gain.setTargetAtTime(0, output.currentTime, FADE / 3);
  source.stop(output.currentTime + FADE);
}

async function play(clip, seconds) {
  output ??= new AudioContext();
  output.resume();
  const request = (now.request = {});
  const samples = await decoded(clip);
  if (now.request !== request) return; // another was asked for meanwhile
  silence();
  const source = output.createBufferSource(), gain = output.createGain();
  source.buffer = samples;
  gain.gain.value = 0;
  gain.gain.setTargetAtTime(Number(clip.dataset.gain), output.currentTime, FADE / 3);
  source.connect(gain).connect(output.destination);
  const from = seconds < samples.duration ? seconds : 0;
  source.start(0, from);
  source.onended = () => { now.source = null; now.position = 0; show(); settle(); };
  Object.assign(now, { clip, position: from, started: output.currentTime, source, gain });
  show();
  follow();
  for (const other of group(clip)) decoded(other); // so that a switch is immediate
}
// The same utterance: at the position of the other sound. Another one: from its beginning.
const switchTo = (clip) => play(clip, now.clip && group(clip).includes(now.clip) ? position() : 0);
const pause = () => { now.request = null; silence(); show(); settle(); };
const stop = () => { pause(); now.position = 0; show(); };

function show() {
  const active = now.source ? now.clip : null, place = active?.dataset.place;
  for (const clip of document.querySelectorAll(".clip.playing, .clip.paired")) clip.classList.remove("playing", "paired");
  if (now.clip && (now.source || now.position > 0)) {
    for (const clip of group(now.clip)) clip.classList.add("paired");
    follow();
  }
  active?.classList.add("playing");
  for (const button of document.querySelectorAll("[data-plays]")) {
    const playing = button.dataset.plays === place;
    button.innerHTML = playing ? STOP : PLAY;
    button.setAttribute("aria-pressed", playing);
  }
}
function follow() {
  if (!now.clip) return;
  for (const clip of group(now.clip)) {
    const seconds = Number(clip.dataset.seconds) || 1;
    clip.querySelector(".head").style.left = `${Math.min(100, (100 * position()) / seconds)}%`;
  }
  if (now.source) requestAnimationFrame(follow);
}

const clipAt = (place) => document.querySelector(`.clip[data-place="${place}"]`);

function enhance(part) {
  if (!window.AudioContext) return;
  for (const clip of part.querySelectorAll(".clip")) {
    const audio = clip.querySelector("audio"), sound = clip.querySelector(".sound");
    const button = document.createElement("button");
    button.className = "play";
    button.type = "button";
    button.dataset.plays = clip.dataset.place;
    button.setAttribute("aria-label", `Play ${audio.getAttribute("aria-label")}`);
    audio.removeAttribute("controls");
    audio.before(button);
    sound.addEventListener("click", (event) => play(clip, (event.offsetX / sound.clientWidth) * clip.dataset.seconds));
  }
  for (const button of part.querySelectorAll("[data-plays]")) {
    button.innerHTML = PLAY;
    button.addEventListener("click", () => {
      const clip = clipAt(button.dataset.plays);
      if (now.source && now.clip === clip) stop();
      else switchTo(clip);
    });
  }
}

// The utterance that the keys switch in: the one that was played, else the first that is in sight.
function atHand() {
  if (now.clip?.isConnected) return group(now.clip);
  const seen = [...document.querySelectorAll(".utterance")].find((each) => each.getBoundingClientRect().bottom > 120);
  return seen ? [...seen.querySelectorAll(".clip")] : [];
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, pre")) return;
  const clips = atHand(), place = clips.indexOf(now.clip);
  let next = null;
  if (/^[1-9]$/.test(event.key)) next = clips[event.key - 1];
  else if (now.source && event.key === "ArrowRight") next = clips[(place + 1) % clips.length];
  else if (now.source && event.key === "ArrowLeft") next = clips[(place + clips.length - 1) % clips.length];
  else if (event.key === " " && now.clip?.isConnected && !event.target.closest("button, summary, a")) {
    event.preventDefault();
    if (now.source) pause();
    else play(now.clip, now.position);
    return;
  }
  if (!next) return;
  event.preventDefault();
  switchTo(next);
});

// A page that is being rewritten loads itself into a hidden frame, which posts its parts, and replaces those that changed.
// What plays stays: its part waits until it has ended.
const parts = (root) => [...root.querySelectorAll("[data-part]")];
const written = new Map(); // name of a part -> as it came
let pending = null;

function settle() {
  if (pending && !now.source) replace(pending);
}
function replace(page) {
  pending = null;
  const top = parts(document).find((part) => part.getBoundingClientRect().bottom > 80 && part.dataset.part !== "nav");
  const anchor = top?.dataset.part, before = top?.getBoundingClientRect().top;
  const here = new Map(parts(document).map((part) => [part.dataset.part, part]));
  let last = null;
  for (const [name, html] of page.parts) {
    const old = here.get(name), waits = now.source && old?.contains(now.clip);
    here.delete(name);
    if (old && (waits || written.get(name) === html)) {
      if (waits && written.get(name) !== html) pending = page;
      last = old;
      continue;
    }
    const holder = document.createElement("template");
    holder.innerHTML = html;
    const part = holder.content.firstElementChild;
    if (old) {
      const open = [...old.querySelectorAll("details")].map((details) => details.open);
      part.querySelectorAll("details").forEach((details, place) => { details.open = open[place] ?? false; });
      if (old.contains(now.clip)) now.clip = null;
      old.replaceWith(part);
    } else last.after(part);
    written.set(name, html);
    enhance(part);
    last = part;
  }
  for (const [name, part] of here) {
    written.delete(name);
    if (part.contains(now.clip)) now.clip = null;
    part.remove();
  }
  document.title = page.title;
  document.body.toggleAttribute("data-refresh", page.every > 0);
  const after = anchor && document.querySelector(`[data-part="${anchor}"]`)?.getBoundingClientRect().top;
  if (after != null) window.scrollBy({ top: after - before, behavior: "instant" });
  show();
}
let frame = null; // the newer version while it loads
function refresh() {
  if (frame || !document.body.hasAttribute("data-refresh") || document.hidden) return;
  frame = document.createElement("iframe");
  frame.hidden = true;
  frame.src = `${location.href.split(/[?#]/)[0]}?${Date.now()}#copy`;
  frame.addEventListener("load", () => setTimeout(drop, 1000)); // by then it has posted, or it has no script
  document.body.append(frame);
}
function drop() {
  frame?.remove();
  frame = null;
}
window.addEventListener("message", (event) => {
  if (!frame || event.source !== frame.contentWindow) return;
  drop();
  replace(event.data);
});

const every = Number(document.body.dataset.refresh || 0);
if (window !== window.parent && location.hash === "#copy") {
  const page = parts(document).map((part) => [part.dataset.part, part.outerHTML]);
  window.parent.postMessage({ title: document.title, every, parts: page }, "*");
} else {
  if (every > 0) for (const part of parts(document)) written.set(part.dataset.part, part.outerHTML);
  enhance(document);
  if (every > 0) setInterval(refresh, 1000 * every);
}
