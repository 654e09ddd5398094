// Image files to the model's input, as Pillow and the bundle's runner.py make it.

/** A file's pixels as the browser decodes them: RGB, turned as its EXIF data says, on white where transparent. */
export async function readImage(blob) {
  const decoded = await createImageBitmap(blob, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  const { width, height } = decoded;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(decoded, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const values = new Uint8Array(width * height * 3);
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let channel = 0; channel < 3; channel++) values[pixel * 3 + channel] = data[pixel * 4 + channel];
  }
  return { values, width, height, channels: 3 };
}

/** RGB to grey levels by the weights of ITU-R 601 in fixed point, as Pillow has them. */
export function grey({ values, width, height }) {
  const levels = new Uint8Array(width * height);
  for (let pixel = 0; pixel < levels.length; pixel++) {
    const [red, green, blue] = values.subarray(pixel * 3, pixel * 3 + 3);
    levels[pixel] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >>> 16;
  }
  return { values: levels, width, height, channels: 1 };
}

const BITS = 22;

/** Pillow's bilinear filter for each place of the new side: where it begins, and its weights in fixed point. */
function weights(from, to) {
  const scale = from / to;
  const support = Math.max(scale, 1);
  return Array.from({ length: to }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const last = Math.min(Math.trunc(centre + support + 0.5), from);
    const raw = [];
    for (let at = first; at < last; at++) raw.push(Math.max(1 - Math.abs((at - centre + 0.5) / support), 0));
    const sum = raw.reduce((total, value) => total + value, 0);
    return { first, values: raw.map((value) => Math.trunc(0.5 + (value / sum) * (1 << BITS))) };
  });
}

/** Scale along rows, then the same along columns; each pass rounds to 8 bits, as Pillow does. */
export function scale(image, [height, width]) {
  let scaled = image;
  if (image.width !== width) scaled = pass(scaled, width, scaled.height, weights(image.width, width), true);
  if (image.height !== height) scaled = pass(scaled, width, height, weights(image.height, height), false);
  return scaled;
}

function pass(image, width, height, filters, along) {
  const { channels } = image;
  const values = new Uint8Array(width * height * channels);
  const step = along ? channels : image.width * channels;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const filter = filters[along ? x : y];
      const start = along ? (y * image.width + filter.first) * channels : (filter.first * image.width + x) * channels;
      for (let channel = 0; channel < channels; channel++) {
        let sum = 1 << (BITS - 1);
        filter.values.forEach((weight, place) => {
          sum += image.values[start + place * step + channel] * weight;
        });
        values[(y * width + x) * channels + channel] = Math.min(Math.max(sum >> BITS, 0), 255);
      }
    }
  }
  return { values, width, height, channels };
}

/** A file -> the pixels that the model sees. */
export async function seen(blob, { size, channels }) {
  const image = await readImage(blob);
  return scale(channels === 1 ? grey(image) : image, size);
}

/** Pixels -> the input tensor, float32 (1, channels, height, width): (pixel / 255 - mean) / std, rounded as numpy does. */
export function pixelInputs({ values, width, height, channels }, { mean, std }, name, Tensor) {
  const out = new Float32Array(channels * height * width);
  const single = Math.fround;
  for (let channel = 0; channel < channels; channel++) {
    for (let pixel = 0; pixel < width * height; pixel++) {
      const fraction = single(values[pixel * channels + channel] / 255);
      const centred = single(fraction - single(mean[channel]));
      out[channel * width * height + pixel] = centred / single(std[channel]);
    }
  }
  return { [name]: new Tensor("float32", out, [1, channels, height, width]) };
}

/** Draw what the model sees. */
export function draw(canvas, { values, width, height, channels }) {
  const shown = new ImageData(width, height);
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let channel = 0; channel < 3; channel++) {
      shown.data[pixel * 4 + channel] = values[pixel * channels + (channels === 1 ? 0 : channel)];
    }
    shown.data[pixel * 4 + 3] = 255;
  }
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(shown, 0, 0);
}
