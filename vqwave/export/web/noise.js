// Random numbers from a counter, as vqwave/rng/philox.py has them: the same seed, the same noise.
// Philox 4x32-10: Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3", sec. 5.3.
"use strict";

// The high word of the product of two 32-bit words.
function highWord(a, b) {
  const aLow = a & 0xffff, aHigh = a >>> 16, bLow = b & 0xffff, bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const other = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + (middle >>> 16) + (other >>> 16)) >>> 0;
}

// Four words of counter and two of key -> four random words, all of 32 bits.
function philox([c0, c1, c2, c3], [k0, k1]) {
  for (let round = 0; round < 10; round++) {
    const high0 = highWord(0xd2511f53, c0), low0 = Math.imul(0xd2511f53, c0) >>> 0;
    const high2 = highWord(0xcd9e8d57, c2), low2 = Math.imul(0xcd9e8d57, c2) >>> 0;
    [c0, c1, c2, c3] = [(high2 ^ c1 ^ k0) >>> 0, low2, (high0 ^ c3 ^ k1) >>> 0, low0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

// A word -> a number in (0, 1) of 23 bits, at the middle of its interval.
const uniform = (word) => ((word >>> 9) + 0.5) * 2 ** -23;

// `standard_sample` of vqwave/distributions.py, by base: of the four words, the second and third.
const STANDARD = {
  logistic: (u, _) => Math.log(u / (1 - u)),
  gaussian: (u, v) => Math.sqrt(-2 * Math.log(u)) * Math.cos(2 * Math.PI * v), // Box and Muller
};

// The noise of stream 0 at samples 0 .. count - 1; seed: a whole number from 0 to 2^53 - 1.
function noise(base, seed, count) {
  const key = [seed % 2 ** 32, Math.floor(seed / 2 ** 32)], z = new Float32Array(count);
  for (let time = 0; time < count; time++) {
    const words = philox([time, 0, 0, 0], key);
    z[time] = STANDARD[base](uniform(words[1]), uniform(words[2]));
  }
  return z;
}
