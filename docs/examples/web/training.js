// Trains the linear example, y = 2 x0 + 3 x1 + 4, step by step, and draws its loss while it falls.

const STEPS = 600, ROWS = 64, STEPS_A_FRAME = 5, SEED = 1;
const LARGEST = 2, SMALLEST = -32;  // powers of ten of the curve's scale
const byId = id => document.getElementById(id);

/** Return a batch of the linear example: x uniform in [0, 1)^2, the same at each run of the page. */
export function batch(step) {
  let state = SEED + step * ROWS * 2;
  const random = () => {  // mulberry32, which gives the same numbers everywhere
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const x = Float64Array.from({length: 2 * ROWS}, random);
  const y = Float64Array.from({length: ROWS}, (_, i) => 2 * x[2 * i] + 3 * x[2 * i + 1] + 4);
  return {x: {type: "float64", dims: [ROWS, 2], data: x}, target: {type: "float64", dims: [ROWS, 1], data: y}};
}

export function setUpTraining(trainer) {
  let losses = [], isRunning = false, turn = 0;

  async function train() {
    const own = ++turn;
    isRunning = !isRunning;
    byId("train").textContent = isRunning ? "Pause" : "Go on";
    while (isRunning && own === turn && trainer.stepsDone < STEPS) {
      for (let i = 0; i < STEPS_A_FRAME && own === turn && trainer.stepsDone < STEPS; i++) {
        const step = trainer.stepsDone, loss = await trainer.step(batch(step), Number(byId("rate").value));
        if (trainer.stepsDone === step + 1) losses[step] = loss;  // else it was reset meanwhile
        if (!Number.isFinite(loss)) throw new Error("the loss is no number any more; take a smaller learning rate");
      }
      show();
      await new Promise(requestAnimationFrame);
    }
    if (trainer.stepsDone === STEPS) finish();
  }

  function finish() {
    isRunning = false;
    byId("train").textContent = "Train";
    byId("train").disabled = true;
    const link = byId("save");
    URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(new Blob([trainer.save()], {type: "application/octet-stream"}));
    link.hidden = false;
  }

  function reset() {
    turn++;
    isRunning = false;
    losses = [];
    trainer.reset();
    byId("train").textContent = "Train";
    byId("train").disabled = false;
    byId("save").hidden = true;
    show();
  }

  function show() {
    const {weight, bias} = trainer.state;
    byId("step").textContent = trainer.stepsDone;
    byId("loss").textContent = losses.length ? losses.at(-1).toExponential(2) : "–";
    [byId("w0"), byId("w1")].forEach((cell, i) => (cell.textContent = weight.data[i].toFixed(9)));
    byId("b").textContent = bias.data[0].toFixed(9);
    const place = (loss, i) => `${45 + 550 * i / STEPS},${height(Math.log10(loss))}`;
    byId("line").setAttribute("points", losses.map(place).join(" "));
  }

  byId("steps").textContent = STEPS;
  byId("grid").innerHTML = [0, -10, -20, -30].map(power => `
    <line x1="45" x2="595" y1="${height(power)}" y2="${height(power)}"></line>
    <text x="4" y="${height(power) + 4}">1e${power}</text>`).join("");
  byId("train").addEventListener("click", () => train().catch(error => {
    reset();
    globalThis.complain(`The training failed: ${error.message}.`);
  }));
  byId("reset").addEventListener("click", reset);
  byId("train").disabled = byId("reset").disabled = false;
  show();
}

function height(power) {
  const part = (LARGEST - Math.max(power, SMALLEST)) / (LARGEST - SMALLEST);
  return (5 + 230 * part).toFixed(1) * 1;
}
