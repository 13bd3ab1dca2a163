// The ONNX graphs, computed by onnxruntime in a worker: recording -> codes -> waveform.

const here = (name) => new URL(name, document.baseURI).href;
const RUNTIME = "ort.wasm.bundle.min.mjs", BINARY = "ort-wasm-simd-threaded.wasm";

class Speech {
  // progress: called with the name of what is loaded next.
  static async open(model, progress) {
    const speech = new Speech(model);
    progress("runtime");
    speech.ort = await import(here(RUNTIME));
    Object.assign(speech.ort.env.wasm, { numThreads: 1, proxy: true, wasmPaths: { wasm: here(BINARY) } });
    for (const part of model.melody ? ["encoder", "decoder", "pitch", "f0"] : ["encoder", "decoder"]) {
      progress(part);
      const response = await fetch(here(`${part}.onnx`));
      if (!response.ok) throw new Error(`${part}.onnx: ${response.status} ${response.statusText}`);
      const graph = new Uint8Array(await response.arrayBuffer());
      speech.sessions[part] = await speech.ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
    }
    return speech;
  }

  constructor(model) {
    [this.model, this.sessions] = [model, {}];
  }

  // Of a copy, since the worker takes what a tensor holds away from the page.
  floats(values, ...shape) {
    return new this.ort.Tensor("float32", Float32Array.from(values), shape);
  }

  integers(values, ...shape) {
    return new this.ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
  }

  async run(part, given) {
    const outputs = await this.sessions[part].run(given);
    return Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, tensor.data]));
  }

  // A prepared recording -> codes, frame by frame, and pitch codes where there is a melody.
  async encode(wave) {
    const { hop, books, melody } = this.model, frames = Math.ceil(wave.length / hop);
    const padded = new Float32Array(frames * hop);
    padded.set(wave);
    const { codes } = await this.run("encoder", { wave: this.floats(padded, 1, padded.length) });
    const coded = { samples: wave.length, frames, codes: byFrame(codes, books), pitch: null };
    if (melody) coded.pitch = await this.encodeMelody(wave);
    return coded;
  }

  async encodeMelody(wave) {
    const { melody } = this.model, f0 = await this.track(wave), [middle, deviation] = rangeOf(f0, melody);
    const count = Math.ceil(f0.length / melody.frames_a_code), n = count * melody.frames_a_code;
    const { pitch_codes: codes } = await this.run("pitch", {
      contour: this.floats(contour(f0, n), 1, 2, n),
      lengths: this.integers([f0.length], 1),
      voice_pitch: this.floats(Float32Array.of(middle, deviation), 1, 2),
    });
    return { codes: byFrame(codes, melody.books), count, mean: middle, deviation, f0 };
  }

  // F0 in Hz, 0 where unvoiced: `track` of vqwave/pitch_tracking.py.
  async track(wave) {
    const { sample_rate: rate, melody } = this.model, { tracker } = melody;
    const longer = new Float32Array(wave.length + Math.ceil((2 * tracker.grid * rate) / tracker.rate));
    longer.set(wave);
    const sound = rate === tracker.rate ? longer : resampled(longer, rate, tracker.rate);
    const { pitch, confidence } = await this.run("f0", {
      audio: this.floats(sound, 1, sound.length),
      fmin: this.floats(Float32Array.of(tracker.lowest)),
      fmax: this.floats(Float32Array.of(tracker.highest)),
    });
    const sure = hushed(confidence, sound, tracker.grid), count = Math.ceil(wave.length / melody.hop);
    return interpolated(pitch, sure, count, melody.hop, rate, tracker);
  }

  // Codes -> samples in [-1, 1]. labels: a number by name; shift: semitones; z: in place of the seed's noise.
  async decode(coded, { labels = {}, shift = 0, seed = 0, z = null } = {}) {
    const { hop, books, base, melody } = this.model, count = coded.frames * hop;
    const given = {
      codes: this.integers(byBook(coded.codes, books), 1, books, coded.frames),
      noise: this.floats(z ?? noise(base, seed, count), 1, count),
    };
    for (const name of Object.keys(this.model.labels)) given[name] = this.integers([labels[name]], 1);
    if (melody) {
      const { codes, count: n, mean: middle, deviation } = coded.pitch;
      const range = melody.voices ? melody.voices[labels.speaker] : [middle, deviation];
      given.pitch_codes = this.integers(byBook(codes, melody.books), 1, melody.books, n);
      given.voice_pitch = this.floats(Float32Array.of(range[0] + shift * SEMITONE, range[1]), 1, 2);
    }
    return (await this.run("decoder", given)).wave.slice(0, coded.samples);
  }
}

// Codes (Q, F), book by book, of any kind of number -> frame by frame; and back.
function byFrame(codes, books) {
  const frames = codes.length / books;
  return Array.from(codes, (_, i) => Number(codes[(i % books) * frames + Math.floor(i / books)]));
}

function byBook(codes, books) {
  const frames = codes.length / books;
  return codes.map((_, i) => codes[(i % frames) * books + Math.floor(i / frames)]);
}
