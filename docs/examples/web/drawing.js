// The drawing area: pointers and keys make strokes, and a model says which digit they are.

import {predict} from "./runtime.js";
import {pixelsOf} from "./strokes.js";

const FAR = 32, NEAR = 8;  // steps of the keyboard's pen, in pixels of the canvas
const MOVES = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
const byId = id => document.getElementById(id);

export function setUpDrawing(ort, sessions) {
  const pad = byId("pad");
  let strokes = [], stroke = null, pen = [pad.width / 2, pad.height / 2], isPenDown = false, latest = 0;
  byId("chances").innerHTML = [..."0123456789"].map(d => `<li>${d}<i><b style="width:0"></b></i><span>–</span>`).join("");

  async function tell() {
    const turn = ++latest, pixels = pixelsOf(strokes);
    showSeen(pixels);
    byId("digit").ariaBusy = "true";
    if (!pixels) return show(null);
    const dtype = document.querySelector("input[name=dtype]:checked").value;
    try {
      const [logits] = await predict(ort, sessions[dtype], [pixels]);
      if (turn === latest) show(logits);
    } catch (error) {
      globalThis.complain(`The prediction failed: ${error.message}`);
    }
  }

  function clear() {
    [strokes, stroke, isPenDown] = [[], null, false];
    draw();
    tell();
  }

  function draw() {
    const paint = pad.getContext("2d"), style = getComputedStyle(pad);
    paint.clearRect(0, 0, pad.width, pad.height);
    paint.lineWidth = 18;
    paint.lineCap = paint.lineJoin = "round";
    paint.strokeStyle = paint.fillStyle = style.color;
    for (const points of strokes) {
      paint.beginPath();
      paint.moveTo(...points[0]);
      for (const point of points) paint.lineTo(...point);
      paint.stroke();
    }
    if (document.activeElement !== pad || !pad.matches(":focus-visible")) return;
    paint.beginPath();
    paint.arc(...pen, isPenDown ? 6 : 12, 0, 2 * Math.PI);
    paint.lineWidth = 3;
    paint.strokeStyle = style.outlineColor;
    paint.stroke();
  }

  const place = event => {
    const box = pad.getBoundingClientRect();
    return [(event.clientX - box.left) * pad.width / box.width, (event.clientY - box.top) * pad.height / box.height];
  };
  pad.addEventListener("pointerdown", event => {
    if (event.button) return;
    pad.setPointerCapture(event.pointerId);
    strokes.push(stroke = [place(event)]);
    isPenDown = false;
    draw();
  });
  pad.addEventListener("pointermove", event => {
    if (!stroke || !pad.hasPointerCapture(event.pointerId)) return;
    stroke.push(place(event));
    draw();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    pad.addEventListener(end, () => {
      if (!stroke) return;
      stroke = null;
      tell();
    });
  }
  pad.addEventListener("keydown", event => {
    const move = MOVES[event.key];
    if (move) {
      const distance = event.shiftKey ? FAR : NEAR;
      pen = pen.map((at, i) => Math.min(pad.width, Math.max(0, at + move[i] * distance)));
      if (isPenDown) strokes.at(-1).push(pen);
    } else if (event.key === " ") {
      isPenDown = !isPenDown;
      if (isPenDown) strokes.push([pen]);
      else tell();
    } else if (event.key === "Enter") tell();
    else if (event.key === "Delete" || event.key === "Backspace") clear();
    else return;
    event.preventDefault();
    draw();
  });
  for (const change of ["focus", "blur"]) pad.addEventListener(change, draw);
  byId("predict").addEventListener("click", tell);
  byId("clear").addEventListener("click", clear);
  byId("dtypes").addEventListener("change", tell);
  byId("predict").disabled = byId("clear").disabled = false;
  draw();
}

function show(logits) {
  const largest = logits && Math.max(...logits), powers = logits?.map(logit => Math.exp(logit - largest));
  const sum = powers?.reduce((a, b) => a + b);
  byId("digit").textContent = logits ? logits.indexOf(largest) : "–";
  byId("digit").dataset.logits = JSON.stringify(logits);
  byId("digit").ariaBusy = "false";
  [...byId("chances").children].forEach((row, i) => {
    row.querySelector("b").style.width = `${powers ? 100 * powers[i] / sum : 0}%`;
    row.querySelector("span").textContent = powers ? `${(100 * powers[i] / sum).toFixed(1)} %` : "–";
  });
}

function showSeen(pixels) {
  const canvas = byId("seen"), paint = canvas.getContext("2d");
  paint.fillStyle = "#fff";
  paint.fillRect(0, 0, 8, 8);
  pixels?.forEach((value, i) => {
    paint.fillStyle = `rgb(0 0 0 / ${value / 16})`;
    paint.fillRect(i % 8, Math.floor(i / 8), 1, 1);
  });
  canvas.dataset.pixels = JSON.stringify(pixels && Array.from(pixels));
}
