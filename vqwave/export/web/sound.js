// Sound in and out: files and microphone -> samples as a model was trained on them, and WAV files.

// What is wrong with what a person gave, in words that the page shows.
class Problem extends Error {}

const SILENCE_DB = -70, CANCELLED_DB = 15, PEAK_DB = -0.5; // as in vqwave/audio
const LARGEST_FILE = 2 ** 26; // bytes

const decibels = (power) => 10 * Math.log10(power);

function mean(values) {
  let sum = 0;
  for (const value of values) sum += value;
  return sum / values.length;
}

function power(values) {
  let sum = 0;
  for (const value of values) sum += value * value;
  return sum / values.length;
}

const withoutMean = (wave) => {
  const offset = mean(wave);
  return wave.map((value) => value - offset);
};

// A sound file -> samples at `rate`, mono. The browser decodes and resamples.
async function readSound(bytes, rate, longest) {
  if (bytes.byteLength > LARGEST_FILE) throw new Problem(`This file is larger than ${LARGEST_FILE / 2 ** 20} MB.`);
  let buffer;
  try {
    buffer = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
  } catch {
    throw new Problem("This file cannot be read as sound.");
  }
  if (buffer.duration > longest) {
    throw new Problem(`The recording has ${buffer.duration.toFixed(1)} s, expected at most ${longest} s.`);
  }
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, c) => buffer.getChannelData(c));
  if (channels.length === 1) return channels[0];
  const wave = channels[0].map((_, t) => channels.reduce((sum, channel) => sum + channel[t], 0) / channels.length);
  const each = mean(channels.map((channel) => power(withoutMean(channel))));
  if (decibels(each) > SILENCE_DB && decibels(power(withoutMean(wave))) < decibels(each) - CANCELLED_DB) {
    throw new Problem("The channels of this recording cancel each other, expected one of them alone.");
  }
  return wave;
}

// As vqwave/inference/preparation.py: no DC, `level` dBFS or less where the peak would pass -0.5 dBFS.
function prepared(samples, level) {
  if (!samples.length || !samples.every(Number.isFinite)) throw new Problem("The recording is empty.");
  const wave = withoutMean(samples), rms = decibels(power(wave));
  if (!(rms >= SILENCE_DB)) throw new Problem("The recording is silent.");
  const peak = wave.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const gain = 10 ** (Math.min(level - rms, PEAK_DB - 20 * Math.log10(peak)) / 20);
  return wave.map((value) => value * gain);
}

// Samples in [-1, 1] -> a WAV file: 16-bit PCM as vqwave.write rounds it, or floating-point.
function wav(samples, rate, float = false) {
  const bytes = float ? 4 : 2, size = samples.length * bytes, view = new DataView(new ArrayBuffer(44 + size));
  const text = (place, word) => [...word].forEach((letter, i) => view.setUint8(place + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + size, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, float ? 3 : 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * bytes, true);
  view.setUint16(32, bytes, true);
  view.setUint16(34, 8 * bytes, true);
  text(36, "data");
  view.setUint32(40, size, true);
  samples.forEach((value, t) => {
    if (float) view.setFloat32(44 + 4 * t, value, true);
    else view.setInt16(44 + 2 * t, Math.max(-32768, Math.min(32767, toEven(value * 32768))), true);
  });
  return view.buffer;
}

// To the nearest whole number, halves to the even one, as numpy.rint.
function toEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

const TAP = `registerProcessor("tap", class extends AudioWorkletProcessor {
  process([input]) {
    if (input.length) this.port.postMessage(input[0].slice());
    return true;
  }
});`;

// The microphone until `stop`, which gives what was recorded as a WAV file at the microphone's rate.
class Recorder {
  static async open(longest, progress) {
    if (!navigator.mediaDevices) {
      throw new Problem("The browser gives the microphone to pages from https or localhost alone: choose a file.");
    }
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
    } catch (error) {
      throw new Problem(`The microphone cannot be used (${error.name}): allow it, or choose a file.`);
    }
    try {
      const recorder = new Recorder(stream, new AudioContext());
      await recorder.capture(longest, progress);
      return recorder;
    } catch (error) {
      for (const track of stream.getTracks()) track.stop();
      throw error;
    }
  }

  constructor(stream, context) {
    [this.stream, this.context, this.pieces, this.samples] = [stream, context, [], 0];
  }

  async capture(longest, progress) {
    const module = URL.createObjectURL(new Blob([TAP], { type: "text/javascript" }));
    await this.context.audioWorklet.addModule(module);
    URL.revokeObjectURL(module);
    const tap = new AudioWorkletNode(this.context, "tap", { numberOfOutputs: 0 });
    tap.port.onmessage = ({ data }) => {
      const most = Math.floor(longest * this.context.sampleRate) - this.samples, piece = data.slice(0, most);
      this.pieces.push(piece);
      this.samples += piece.length;
      progress(this.samples / this.context.sampleRate, piece.length < data.length);
    };
    this.context.createMediaStreamSource(this.stream).connect(tap);
    await this.context.resume();
  }

  async stop() {
    this.stream.getTracks().forEach((track) => track.stop());
    await this.context.close();
    const samples = new Float32Array(this.samples);
    this.pieces.reduce((place, piece) => (samples.set(piece, place), place + piece.length), 0);
    return wav(samples, this.context.sampleRate, true);
  }
}
