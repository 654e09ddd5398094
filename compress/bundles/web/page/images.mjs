// Image files to the model's input, as Pillow and the bundle's runner.py make it.

/** A file's pixels as the browser decodes them: RGB, turned as its EXIF data says; what is transparent is laid on white. */
export async function readImage(blob, transparency = "white") {
  const decoded = await createImageBitmap(blob, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  const { width, height } = decoded;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(decoded, 0, 0);
  const values = new Uint8Array(width * height * 3);
  const { data } = context.getImageData(0, 0, width, height);
  if (transparency === "drop" && data.some((value, place) => place % 4 === 3 && value < 255)) {
    // A canvas forgets the colours that transparent pixels hide, and this model was trained to see them.
    throw new Error("this image has transparent parts, which a browser cannot render the way the model was trained on them");
  }
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  const opaque = context.getImageData(0, 0, width, height).data;
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let channel = 0; channel < 3; channel++) values[pixel * 3 + channel] = opaque[pixel * 4 + channel];
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
const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));

/** Pillow's filters: how far each reaches, and its weight at a distance. */
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(1 - Math.abs(x), 0)],
  hamming: [1, (x) => {
    const far = Math.abs(x) * Math.PI;
    if (far === 0) return 1;
    return Math.abs(x) >= 1 ? 0 : (Math.sin(far) / far) * (0.54 + 0.46 * Math.cos(far));
  }],
  bicubic: [2, (x) => {
    const far = Math.abs(x), a = -0.5;
    if (far < 1) return ((a + 2) * far - (a + 3)) * far * far + 1;
    return far < 2 ? (((far - 5) * far + 8) * far - 4) * a : 0;
  }],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

/** A filter for each place of the new side: where it begins, and its weights in fixed point. */
function weights(from, to, name) {
  const [reach, filter] = FILTERS[name];
  const scale = from / to;
  const wider = Math.max(scale, 1);
  const support = reach * wider;
  return Array.from({ length: to }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const last = Math.min(Math.trunc(centre + support + 0.5), from);
    const raw = [];
    for (let at = first; at < last; at++) raw.push(filter((at - centre + 0.5) * (1 / wider)));
    const sum = raw.reduce((total, value) => total + value, 0);
    const whole = (value) => Math.trunc((value < 0 ? -0.5 : 0.5) + value * (1 << BITS));
    return { first, values: raw.map((value) => whole(sum === 0 ? value : value / sum)) };
  });
}

/**
 * Scale along one side, then along the other; each pass rounds to 8 bits, as Pillow does. Rows come first; since Pillow
 * 13 (`columnsFirst`) columns do where the height shrinks by more than twice what the width shrinks by.
 */
export function scale(image, [height, width], name = "bilinear", columnsFirst = true) {
  if (image.width === width && image.height === height) return image;
  if (name === "nearest") return nearest(image, height, width);
  const along = (given) => given.width === width ? given
    : pass(given, width, given.height, weights(given.width, width, name), true);
  const down = (given) => given.height === height ? given
    : pass(given, given.width, height, weights(given.height, height, name), false);
  const shrinks = image.height - height;
  return columnsFirst && shrinks > 0 && shrinks > 2 * (image.width - width) ? along(down(image)) : down(along(image));
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

/** Places of the old side that stand at those of the new one; steps are added up, as Pillow does it. */
function places(from, to) {
  const found = [];
  for (let at = (from / to) * 0.5; found.length < to; at += from / to) found.push(Math.min(Math.trunc(at), from - 1));
  return found;
}

function nearest(image, height, width) {
  const { channels } = image;
  const rows = places(image.height, height), columns = places(image.width, width);
  const values = new Uint8Array(width * height * channels);
  rows.forEach((row, y) => columns.forEach((column, x) => {
    const start = (row * image.width + column) * channels;
    values.set(image.values.subarray(start, start + channels), (y * width + x) * channels);
  }));
  return { values, width, height, channels };
}

/** Python's rounding: a half goes to the even number. */
function round(value) {
  const down = Math.floor(value);
  return value - down === 0.5 ? down + (down % 2) : Math.round(value);
}

/** Height and width that an image is scaled to, before it is cropped or padded. */
export function targetSize({ height, width }, { size, resize = "squash", resize_to: to = [] }) {
  if (resize === "none") return [height, width];
  if (resize === "squash") return to.length ? to : size;
  if (resize === "within") {
    const share = Math.min(to[0] / height, to[1] / width);
    return [Math.max(1, Math.trunc(height * share)), Math.max(1, Math.trunc(width * share))];
  }
  const short = Math.min(height, width), long = Math.max(height, width);
  let edge = to[0], rounded = to[0];
  if (to.length === 2 && (long / short) * edge > to[1]) {
    edge = (to[1] * short) / long;
    rounded = round(edge);
  }
  const longer = short === rounded ? long : Math.trunc((edge * long) / short);
  const sides = [Math.max(1, rounded), Math.max(1, longer)];
  return height <= width ? sides : [sides[1], sides[0]];
}

/** The middle of an image, on black where it is smaller; or, to be padded, what of it the model has room for. */
export function cut(image, [height, width], centred = true) {
  const { channels } = image;
  if (!centred) [height, width] = [Math.min(height, image.height), Math.min(width, image.width)];
  const offset = (side, wanted) => (side < wanted ? -Math.trunc((wanted - side + 1) / 2) : Math.trunc((side - wanted) / 2));
  const [top, left] = centred ? [offset(image.height, height), offset(image.width, width)] : [0, 0];
  const values = new Uint8Array(width * height * channels);
  for (let y = Math.max(0, -top); y < height && y + top < image.height; y++) {
    for (let x = Math.max(0, -left); x < width && x + left < image.width; x++) {
      const start = ((y + top) * image.width + x + left) * channels;
      values.set(image.values.subarray(start, start + channels), (y * width + x) * channels);
    }
  }
  return { values, width, height, channels };
}

/** RGB pixels -> those that the model sees, its channels in the order red, green, blue. */
export function frame(image, format) {
  const coloured = format.channels === 1 ? grey(image) : image;
  const scaled = scale(coloured, targetSize(coloured, format), format.interpolation, format.columns_first);
  return cut(scaled, format.size, format.fit !== "pad");
}

/** A file -> the pixels that the model sees. */
export async function seen(blob, format) {
  return frame(await readImage(blob, format.transparency), format);
}

/**
 * Pixels -> the input tensor, float32 (1, channels, height, width): (pixel / 255 - mean) / std, rounded as numpy does;
 * 0 where the pixels are fewer than the model's.
 */
export function pixelInputs({ values, width, height, channels }, { size, mean, std, order }, name, Tensor) {
  const out = new Float32Array(channels * size[0] * size[1]);
  const single = Math.fround;
  for (let channel = 0; channel < channels; channel++) {
    const from = order === "bgr" ? channels - 1 - channel : channel;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const fraction = single(values[(y * width + x) * channels + from] / 255);
        const centred = single(fraction - single(mean[channel]));
        out[(channel * size[0] + y) * size[1] + x] = centred / single(std[channel]);
      }
    }
  }
  return { [name]: new Tensor("float32", out, [1, channels, ...size]) };
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
