// Codes -> a .vqw file, as docs/file_format.md has it.

const DIGITS = 1024;

// A whole number, seven bits a byte, the lowest first.
function number(value) {
  const bytes = [];
  for (; value > 0x7f; value = Math.floor(value / 128)) bytes.push((value % 128) | 0x80);
  return [...bytes, value];
}

// A name of hexadecimal digits: half as many bytes, and an odd length.
const hexadecimal = (name) => [...number(name.length + 1), ...name.match(/../g).map((pair) => parseInt(pair, 16))];

const bitsOf = (size) => Math.max(1, Math.ceil(Math.log2(size)));

// `bits` bits a code, the lowest first.
function packBits(codes, bits) {
  const bytes = new Uint8Array(Math.ceil((codes.length * bits) / 8));
  codes.forEach((code, i) => {
    for (let bit = 0; bit < bits; bit++) {
      const place = i * bits + bit;
      if ((code >> bit) & 1) bytes[place >> 3] |= 1 << (place & 7);
    }
  });
  return [...bytes];
}

// Each 1,024 codes one number in base `size`, the first code the lowest digit, the lowest byte first.
function packDigits(codes, size) {
  const base = BigInt(Math.max(size, 2)), bytes = [];
  for (let first = 0; first < codes.length; first += DIGITS) {
    const block = codes.slice(first, first + DIGITS);
    let value = block.reduceRight((sum, code) => sum * base + BigInt(code), 0n);
    let most = base ** BigInt(block.length) - 1n;
    for (; most > 0n; most >>= 8n, value >>= 8n) bytes.push(Number(value & 255n));
  }
  return bytes;
}

const float32 = (values) => [...new Uint8Array(new Float32Array(values).buffer)]; // little-endian wherever browsers are

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return (crc ^ 0xffffffff) >>> 0;
}

// coded: samples, frames, codes (frame by frame) and, with melody, pitch {codes, mean, deviation}.
function vqw(model, coded) {
  const { pitch } = coded, melody = model.melody;
  const body = [...new TextEncoder().encode("VQW"), pitch ? 3 : 2, 0];
  body.push(...[model.sample_rate, model.hop, model.size, model.books].flatMap(number), ...hexadecimal(model.codec));
  if (pitch) {
    const ratio = (melody.hop * melody.frames_a_code) / model.hop;
    body.push(...[ratio, melody.size, melody.books].flatMap(number), ...float32([pitch.mean, pitch.deviation]));
  }
  body.push(...number(coded.samples), ...number(coded.frames));
  if (pitch) body.push(...packDigits(pitch.codes, melody.size), ...packDigits(coded.codes, model.size));
  else body.push(...packBits(coded.codes, bitsOf(model.size)));
  const check = crc32(body);
  return new Uint8Array([...body, ...[0, 8, 16, 24].map((shift) => (check >>> shift) & 255)]);
}
