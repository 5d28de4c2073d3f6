// Turns a drawing into the 64 numbers that the model was trained on.
//
// Its data set, scikit-learn's digits, has images of 32 x 32 black or white pixels that were counted in blocks of 4 x 4:
// 8 x 8 numbers from 0 to 16. All of them fill the whole height, most are about 20 pixels wide, and the amount of ink is
// nearly the same (mean 313 of 1024 pixels; a "1" is as black as an "8", so its line is thicker). A drawing is brought
// to this form: scaled, drawn with the line width that gives this ink, and moved to its centre of mass.

export const SIZE = 32, BLOCK = 4;
const INK = 300, WIDTH = 20;
const SLIM = 0.4;  // width by height of what keeps its shape: a "1" is not made as wide as a "0"

/** Return the 64 pixels of some strokes, each a list of points [x, y] in any unit, y downwards; null for no point. */
export function pixelsOf(strokes) {
  const points = strokes.flat();
  if (!points.length) return null;
  let low = 1, high = SIZE, image = null;
  for (let i = 0; i < 12; i++) {  // thicker lines have more ink
    const width = (low + high) / 2;
    image = drawn(strokes, points, width);
    if (count(image) < INK) low = width; else high = width;
  }
  return blocks(centred(image));
}

function drawn(strokes, points, width) {
  const [left, right] = range(points.map(p => p[0])), [top, bottom] = range(points.map(p => p[1]));
  const y = bottom > top ? (SIZE - width) / (bottom - top) : 0;
  const isSlim = right - left < SLIM * (bottom - top);
  const x = isSlim ? y : right > left ? Math.max(WIDTH - width, 1) / (right - left) : 0;
  const place = ([px, py]) => [SIZE / 2 + (px - (left + right) / 2) * x, SIZE / 2 + (py - (top + bottom) / 2) * y];
  const image = new Uint8Array(SIZE * SIZE);
  for (const stroke of strokes) {
    const placed = stroke.map(place);
    placed.forEach((end, i) => line(image, placed[Math.max(i - 1, 0)], end, width / 2));
  }
  return image;
}

/** Blacken all pixels whose centre is at most `radius` from the line between two points. */
function line(image, [ax, ay], [bx, by], radius) {
  const dx = bx - ax, dy = by - ay, length = dx * dx + dy * dy;
  for (let row = 0; row < SIZE; row++) {
    for (let column = 0; column < SIZE; column++) {
      const x = column + 0.5 - ax, y = row + 0.5 - ay;
      const part = length ? Math.min(1, Math.max(0, (x * dx + y * dy) / length)) : 0;
      if ((x - part * dx) ** 2 + (y - part * dy) ** 2 <= radius * radius) image[row * SIZE + column] = 1;
    }
  }
}

/** Move the image sideways by whole pixels, its centre of mass to the middle, as far as no ink falls off. */
function centred(image) {
  let sum = 0, left = SIZE, right = 0;
  image.forEach((ink, i) => {
    if (!ink) return;
    const column = i % SIZE;
    sum += column + 0.5;
    left = Math.min(left, column);
    right = Math.max(right, column);
  });
  const wanted = Math.round(SIZE / 2 - sum / count(image));
  const shift = Math.max(-left, Math.min(SIZE - 1 - right, wanted));
  return image.map((_, i) => image[i - shift] && (i % SIZE) - shift >= 0 && (i % SIZE) - shift < SIZE ? 1 : 0);
}

function blocks(image) {
  const pixels = new Float64Array((SIZE / BLOCK) ** 2);
  image.forEach((ink, i) => {
    pixels[Math.floor(i / SIZE / BLOCK) * (SIZE / BLOCK) + Math.floor((i % SIZE) / BLOCK)] += ink;
  });
  return pixels;
}

const count = image => image.reduce((sum, ink) => sum + ink, 0);
const range = numbers => [Math.min(...numbers), Math.max(...numbers)];
