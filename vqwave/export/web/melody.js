// A recording for the network of F0; F0 -> a contour, and the range of a voice: vqwave/pitch_tracking.py and
// vqwave/data/voices.py.

const SILENT_PEAK = 1e-3; // of a network frame, that SwiftF0 takes for silence
const SEMITONE = Math.log(2) / 12;
// Of soxr's "VHQ": taps to either side at the lower rate, where the band ends (of its Nyquist frequency), Kaiser window.
const TAPS = 140, BAND = 0.9565, BETA = 18.3;

// To another rate, by a windowed sinc in double precision: SwiftF0 takes logarithms of empty bands, in which the browser's
// own filter leaves images of the others.
function resampled(wave, rate, target) {
  const shared = commonDivisor(rate, target), [up, down] = [target / shared, rate / shared];
  const cutoff = BAND * Math.min(1, target / rate), side = Math.ceil((TAPS * BAND) / cutoff);
  const filters = Array.from({ length: up }, (_, phase) => Float64Array.from({ length: 2 * side }, (_, tap) => {
    const t = side - 1 - tap + phase / up, x = Math.PI * cutoff * t;
    return (x ? (cutoff * Math.sin(x)) / x : cutoff) * (bessel(BETA * Math.sqrt(1 - (t / side) ** 2)) / bessel(BETA));
  }));
  return Float32Array.from({ length: Math.ceil((wave.length * up) / down) }, (_, n) => {
    const first = Math.floor((n * down) / up) - side + 1, filter = filters[(n * down) % up];
    let sum = 0;
    for (let tap = Math.max(0, -first); tap < Math.min(2 * side, wave.length - first); tap++) sum += filter[tap] * wave[first + tap];
    return sum;
  });
}

const commonDivisor = (a, b) => (b ? commonDivisor(b, a % b) : a);

// The modified Bessel function of the first kind, order 0.
function bessel(x) {
  let sum = 1;
  for (let term = 1, k = 1; term > 1e-17 * sum; k++) sum += term *= (x / (2 * k)) ** 2;
  return sum;
}

// Frames whose samples stay below the peak are unvoiced, whatever the network gives for them.
function hushed(confidence, wave, grid) {
  return Array.from(confidence, (value, frame) => {
    const hop = wave.subarray(frame * grid, (frame + 1) * grid);
    return hop.some((sample) => Math.abs(sample) >= SILENT_PEAK) ? value : 0;
  });
}

// Network frames -> F0 in Hz at `count` frames of `hop` samples, 0 where unvoiced: `at_positions`.
function interpolated(hz, confidence, count, hop, rate, tracker) {
  const last = hz.length - 1, f0 = new Float32Array(count);
  for (let frame = 0; frame < count; frame++) {
    const place = (frame * hop + Math.floor(hop / 2)) * (tracker.rate / (rate * tracker.grid));
    const left = Math.min(Math.floor(place), last), right = Math.min(left + 1, last);
    let share = Math.min(Math.max(place - left, 0), 1);
    if ((1 - share) * confidence[left] + share * confidence[right] < tracker.voiced) continue;
    const known = (at) => confidence[at] >= tracker.voiced;
    if (!(known(left) && known(right))) share = known(right) ? 1 : 0;
    f0[frame] = Math.exp((1 - share) * Math.log(hz[left]) + share * Math.log(hz[right]));
  }
  return f0;
}

// Mean and deviation of ln(F0 / 100 Hz) over voiced frames.
function rangeOf(f0, melody) {
  const logs = Array.from(f0.filter((hz) => hz > 0), (hz) => Math.log(hz / 100));
  if (!logs.length) return melody.unvoiced;
  const middle = mean(logs);
  return [middle, Math.max(melody.least_deviation, Math.sqrt(power(logs.map((value) => value - middle))))];
}

// (2, n) with n a multiple of the frames a code: v ln(F0 / 100 Hz), then v.
function contour(f0, n) {
  const values = new Float32Array(2 * n);
  f0.forEach((hz, frame) => {
    if (hz > 0) [values[frame], values[n + frame]] = [Math.log(hz / 100), 1];
  });
  return values;
}
