// What is seen and pressed.

const model = JSON.parse(document.getElementById("model").textContent);
const at = (id) => document.getElementById(id);
const PLAY = '<svg viewBox="0 0 12 12" aria-hidden="true"><path d="M2.5 0.8v10.4L11 6z"/></svg>';
const STOP = '<svg viewBox="0 0 12 12" aria-hidden="true"><path d="M1.5 1.5h9v9h-9z"/></svg>';
const seconds = (samples) => `${(samples / model.sample_rate).toFixed(1)} s`;
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
const state = { speech: null, wave: null, coded: null, result: null, encoding: 0 };

// A line on the page; `count` changes often, so that screen readers skip it.
function showStatus(text, { wrong = false, count = "" } = {}) {
  const shown = element("span", { ariaHidden: "true" }, count && ` ${count}`);
  if (at("status").firstChild?.data === text) at("status").lastChild.replaceWith(shown);
  else at("status").replaceChildren(text, shown);
  at("status").classList.toggle("wrong", wrong);
}

// While a graph computes, which reports no progress: the seconds so far.
async function timed(text, work) {
  const start = performance.now(), passed = () => (performance.now() - start) / 1000;
  showStatus(text);
  const clock = setInterval(() => showStatus(text, { count: `${Math.floor(passed())} s so far` }), 1000);
  try {
    return [await work(), passed()];
  } finally {
    clearInterval(clock);
  }
}

// Run what a person started: an error is a line on the page.
async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    showStatus(error instanceof Problem ? error.message : `This did not work: ${error.message}`, { wrong: true });
    if (!(error instanceof Problem)) console.error(error);
    return undefined;
  }
}

function element(name, attributes, ...children) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
}

// The settings: a choice for each label, the pitch where there is a melody, the seed.

const settings = { labels: {}, shift: null, seed: null };

function buildSettings() {
  const place = at("settings");
  for (const [name, values] of Object.entries(model.labels)) {
    const select = element("select", { id: name }, ...values.map(([id, text]) => new Option(text, id)));
    settings.labels[name] = select;
    place.append(element("label", {}, name === "speaker" ? "voice" : name, select));
  }
  if (model.melody) {
    const most = model.melody.furthest_shift, shown = element("output", { textContent: "0" });
    settings.shift = element("input", { id: "shift", type: "range", min: -most, max: most, step: 1, value: 0 });
    const show = () => { shown.textContent = settings.shift.value; };
    for (const event of ["input", "change"]) settings.shift.addEventListener(event, show);
    place.append(element("label", {}, element("span", {}, "pitch shift, semitones: ", shown), settings.shift));
  }
  const most = Number.MAX_SAFE_INTEGER;
  settings.seed = element("input", { id: "seed", type: "number", min: 0, max: most, step: 1, value: 0 });
  place.append(element("label", {}, "seed of the noise", settings.seed));
  place.addEventListener("change", () => attempt(decodeAgain));
  at("left-out").textContent = model.melody ? "" :
    "This model has no pitch codes: the melody is the decoder's own, and cannot be moved.";
}

function chosen() {
  const labels = Object.fromEntries(Object.entries(settings.labels).map(([name, select]) => [name, Number(select.value)]));
  const seed = settings.seed.valueAsNumber;
  if (!Number.isSafeInteger(seed) || seed < 0) throw new Problem("The seed is a whole number from 0 to 2^53 - 1.");
  return { labels, shift: settings.shift ? Number(settings.shift.value) : 0, seed };
}

const voice = () => Object.values(settings.labels).map((select) => select.selectedOptions[0].text).join(", ");

// Tracks on one axis of time: waveforms with a player each, and strips of codes.

const tracks = [];

class Track {
  constructor(kind, name) {
    this.title = element("h3", {});
    this.canvas = element("canvas", {});
    this.lane = element("div", { className: "lane" }, this.canvas);
    this.place = element("div", { className: `track ${kind}` }, this.title);
    this.name = name;
    tracks.push(this);
    at("tracks").append(this.place);
  }

  // A canvas of as many pixels as the screen has for it.
  blank() {
    const ratio = devicePixelRatio || 1, { clientWidth, clientHeight } = this.canvas;
    [this.canvas.width, this.canvas.height] = [Math.round(clientWidth * ratio), Math.round(clientHeight * ratio)];
    return this.canvas.getContext("2d");
  }

  describe(text) {
    this.title.replaceChildren(element("b", {}, this.name), ` ${text}`);
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", `${this.name}: ${text}`);
  }
}

class WaveTrack extends Track {
  constructor(kind, name) {
    super(`wave ${kind}`, name);
    this.audio = new Audio();
    this.head = element("div", { className: "head" });
    this.lane.append(this.head);
    this.button = element("button", { type: "button", className: "play" });
    this.button.addEventListener("click", () => (this.audio.paused ? this.play(0) : this.audio.pause()));
    this.canvas.addEventListener("click", (event) => this.play(event.offsetX / this.canvas.clientWidth));
    this.audio.addEventListener("play", () => this.show(true));
    this.audio.addEventListener("pause", () => this.show(false));
    this.place.append(this.button, this.lane);
    this.show(false);
  }

  show(playing) {
    this.place.classList.toggle("playing", playing);
    this.button.innerHTML = playing ? STOP : PLAY;
    this.button.setAttribute("aria-label", `${playing ? "Stop" : "Play"} the ${this.name.toLowerCase()}`);
    if (playing) this.follow();
  }

  follow() {
    if (this.audio.paused) return;
    this.head.style.left = `${(100 * this.audio.currentTime) / (this.audio.duration || 1)}%`;
    requestAnimationFrame(() => this.follow());
  }

  play(share) {
    for (const track of tracks) if (track !== this) track.audio?.pause();
    this.audio.currentTime = share * (this.audio.duration || 0);
    attempt(() => this.audio.play());
  }

  take(wave, text) {
    this.audio.pause();
    URL.revokeObjectURL(this.audio.src);
    this.audio.src = URL.createObjectURL(new Blob([wav(wave, model.sample_rate)], { type: "audio/wav" }));
    this.wave = wave;
    this.describe(text);
    this.draw();
  }

  // Lowest and highest sample of each column; all waveforms in one scale.
  draw() {
    if (!this.wave) return;
    const context = this.blank(), { width, height } = context.canvas, per = this.wave.length / width;
    const most = Math.max(...tracks.map((track) => track.wave?.reduce((peak, x) => Math.max(peak, Math.abs(x)), 0.05) ?? 0));
    context.fillStyle = getComputedStyle(this.canvas).color;
    for (let x = 0; x < width; x++) {
      const piece = this.wave.subarray(Math.floor(x * per), Math.max(Math.floor(x * per) + 1, Math.floor((x + 1) * per)));
      const low = Math.min(...piece) / most, high = Math.max(...piece) / most;
      context.fillRect(x, (height / 2) * (1 - 0.95 * high), 1, Math.max(1, (height / 2) * 0.95 * (high - low)));
    }
  }
}

class CodeTrack extends Track {
  constructor(name) {
    super("codes", name);
    this.place.append(this.lane);
    this.canvas.addEventListener("pointermove", (event) => this.read(event.offsetX / this.canvas.clientWidth));
  }

  // codes frame by frame, each frame `span` seconds of the `length` seconds that the axis has.
  take(codes, books, span, length, text) {
    Object.assign(this, { codes, books, span, length });
    this.describe(text);
    this.draw();
  }

  // A colour a code: hues at the golden angle, so that neighbours in number differ.
  draw() {
    if (!this.codes) return;
    const context = this.blank(), { width, height } = context.canvas, wide = (width * this.span) / this.length;
    this.codes.forEach((code, i) => {
      const frame = Math.floor(i / this.books), left = Math.round(frame * wide), right = Math.round((frame + 1) * wide);
      context.fillStyle = `hsl(${(code * 137.508) % 360} ${45 + ((code * 7) % 25)}% ${42 + ((code * 13) % 26)}%)`;
      context.fillRect(left, ((i % this.books) * height) / this.books, right - left, Math.ceil(height / this.books));
    });
  }

  read(share) {
    const frame = Math.floor((share * this.length) / this.span), first = frame * this.books;
    const codes = this.codes?.slice(first, first + this.books);
    if (codes?.length) at("code-at-pointer").textContent = `${this.name}: ${codes.join(", ")} at ${(frame * this.span).toFixed(2)} s.`;
  }
}

const original = new WaveTrack("original", "Original");
const content = new CodeTrack("Codes");
const melody = model.melody ? new CodeTrack("Pitch codes") : null;
const result = new WaveTrack("result", "Result");
addEventListener("resize", () => tracks.forEach((track) => track.draw()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => tracks.forEach((track) => track.draw()));

// From a recording to what is shown.

async function take(bytes) {
  showStatus("Reading the recording.");
  const wave = prepared(await readSound(bytes, model.sample_rate, model.longest_seconds), model.level_db);
  const [coded, time] = await timed(`Computing the codes of ${seconds(wave.length)}`, () => state.speech.encode(wave));
  Object.assign(state, { wave, coded, result: null, encoding: time });
  showCodes();
  await decodeAgain();
}

function showCodes() {
  const { wave, coded } = state, frame = model.hop / model.sample_rate, length = wave.length / model.sample_rate;
  const rate = (1 / frame).toFixed(1).replace(".0", ""), many = model.books > 1 ? `${model.books} x ` : "";
  at("made").hidden = false;
  original.take(wave, `${length.toFixed(2)} s at ${model.sample_rate.toLocaleString("en")} Hz`);
  content.take(coded.codes, model.books, frame, length, `${rate} a second, each one of ${many}${model.size}`);
  if (melody) {
    const { codes, mean: middle } = coded.pitch, { hop, frames_a_code: ratio, books, size } = model.melody;
    const span = (hop * ratio) / model.sample_rate;
    const each = (1 / span).toFixed(1).replace(".0", ""), hz = Math.round(100 * Math.exp(middle));
    melody.take(codes, books, span, length, `${each} a second, each one of ${size}; F0 about ${hz} Hz`);
  }
  at("numbers").textContent = coded.codes.join(" ") + (melody ? `\n\npitch: ${coded.pitch.codes.join(" ")}` : "");
  showDownloads();
}

let requests = 0;

// Decode by the settings of now; of several requests, the last is shown.
async function decodeAgain() {
  if (!state.coded) return;
  const turn = ++requests, given = chosen(), name = voice(), coded = state.coded, length = seconds(coded.samples);
  const text = `Decoding ${length}${name && ` as ${name}`}`;
  const [wave, time] = await timed(text, () => state.speech.decode(coded, given));
  if (turn !== requests) return;
  state.result = wave;
  result.take(wave, [name, given.shift ? `${given.shift > 0 ? "+" : ""}${given.shift} semitones` : ""].filter(Boolean).join(", "));
  original.draw(); // in the common scale
  showDownloads();
  showStatus(`Done: ${length} of speech, codes in ${state.encoding.toFixed(1)} s, decoded in ${time.toFixed(1)} s.`);
}

function showDownloads() {
  const { wave, coded } = state, rate = model.sample_rate, codes = vqw(model, coded);
  const files = [
    ["original.wav", wav(wave, rate)],
    ["codes.vqw", codes],
    ...(state.result ? [["result.wav", wav(state.result, rate)]] : []),
  ];
  for (const link of at("downloads").querySelectorAll("a")) URL.revokeObjectURL(link.href);
  at("downloads").replaceChildren("Download", ...files.map(([download, data]) => {
    const href = URL.createObjectURL(new Blob([data])), size = data.byteLength;
    const shown = size < 1e4 ? `${size} bytes` : `${Math.round(size / 1000)} kB`;
    return element("a", { className: "button", download, href }, download, element("small", {}, shown));
  }));
}

// Microphone, files, start.

let recorder = null;

async function record() {
  at("record").disabled = true;
  try {
    if (recorder) await stopRecording();
    else {
      recorder = await Recorder.open(model.longest_seconds, (length, full) => {
        if (!recorder) return;
        showStatus("Recording", { count: `${length.toFixed(1)} s` });
        if (full) attempt(record);
      });
      show(true);
    }
  } finally {
    at("record").disabled = false;
  }
}

async function stopRecording() {
  const ended = recorder;
  recorder = null;
  show(false);
  await take(await ended.stop());
}

function show(recording) {
  at("record").textContent = recording ? "Stop" : "Record";
  at("record").classList.toggle("on", recording);
  at("file").disabled = recording;
}

async function takeFile(file) {
  if (file && state.speech && !recorder) await take(await file.arrayBuffer());
}

function connect() {
  at("record").addEventListener("click", () => attempt(record));
  at("file").addEventListener("change", (event) => attempt(async () => {
    await takeFile(event.target.files[0]);
    event.target.value = "";
  }));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    addEventListener(kind, (event) => {
      event.preventDefault();
      at("drop").classList.toggle("dropping", kind === "dragover");
      if (kind === "drop") attempt(() => takeFile(event.dataTransfer.files[0]));
    });
  }
  at("record").disabled = at("file").disabled = false;
}

function showSizes() {
  const total = Object.values(model.sizes).reduce((sum, size) => sum + size, 0);
  const parts = { runtime: RUNTIME, encoder: "encoder.onnx", decoder: "decoder.onnx", pitch: "pitch.onnx" };
  const size = (name) => model.sizes[name] + (name === RUNTIME ? model.sizes[BINARY] : 0);
  const shown = Object.entries(parts).filter(([, name]) => name in model.sizes);
  at("sizes").textContent = `${megabytes(total)} in all: ${shown.map(([part, name]) => `${part} ${megabytes(size(name))}`).join(", ")}.`;
  at("limit").textContent = `Up to ${model.longest_seconds} s of one voice. A file may also be dropped here.`;
}

async function start() {
  showSizes();
  at("codes-title").textContent = `Codes: ${Math.round(model.bit_rate)} bit/s`;
  buildSettings();
  if (location.protocol === "file:") {
    throw new Problem("This page needs a web server: run python -m http.server in its folder, then open http://localhost:8000");
  }
  state.speech = await Speech.open(model, (part) => showStatus(`Loading the ${part}.`));
  connect();
  showStatus("Ready.");
}

globalThis.vqwave = { model, state, settings: chosen, prepared, readSound, noise, wav, vqw }; // for the console
attempt(start);
