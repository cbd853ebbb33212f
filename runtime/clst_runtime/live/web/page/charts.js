// Two small charts of the last minute, drawn on canvases. Rows are [seconds of the run, values …].

export const WINDOW_SECONDS = 60;
const BAR_SECONDS = 2;
const GAP_SECONDS = 1;
const CAUSE_COLOURS = ["#f2a51a", "#e5383b", "#35c3f0", "#b79cff", "#5fd38d", "#ff8fc7", "#c9d36a", "#93a1af"];

export const colourOfCause = (index) => CAUSE_COLOURS[index % CAUSE_COLOURS.length];

// The smallest of 1, 2, 5 · 10^n that is at least `value`.
export function niceStep(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= value * 0.999);
}

function prepared(canvas, top, unit) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  const box = { left: 52, right: width - 6, top: 9, bottom: height - 20 };
  const x = (secondsAgo) => box.right - (secondsAgo / WINDOW_SECONDS) * (box.right - box.left);
  const y = (value) => box.bottom - (Math.min(value, top) / top) * (box.bottom - box.top);
  pen.font = "11px system-ui, sans-serif";
  pen.lineWidth = 1;
  pen.fillStyle = "#93a1af";
  pen.strokeStyle = "#1f2a35";
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  const step = niceStep(top / 4);
  for (let value = 0; value <= top * 1.001; value += step) {
    pen.beginPath();
    pen.moveTo(box.left, y(value));
    pen.lineTo(box.right, y(value));
    pen.stroke();
    pen.fillText(`${Number(value.toPrecision(3))}${value ? unit : ""}`, box.left - 5, y(value));
  }
  pen.textBaseline = "alphabetic";
  for (const ago of [60, 45, 30, 15, 0]) {
    pen.textAlign = ago === 0 ? "right" : ago === 60 ? "left" : "center";
    pen.fillText(ago ? `−${ago} s` : "now", x(ago), height - 5);
  }
  return { pen, box, x, y };
}

function line(pen, rows, column, now, x, y, colour) {
  pen.beginPath();
  let before = -Infinity;
  for (const row of rows) {
    const apart = row[0] - before > GAP_SECONDS;
    if (apart) pen.moveTo(x(now - row[0]) - 1, y(row[column])); // a single frame is a dot
    pen.lineTo(x(now - row[0]), y(row[column]));
    before = row[0];
  }
  pen.strokeStyle = colour;
  pen.lineWidth = 1.5;
  pen.lineJoin = "round";
  pen.stroke();
}

// The largest value that has to be seen in its place: all of them, unless a few (one in a hundred, but one to three of
// a short time) are more than twice as large as all the others, which they would press flat.
export function largestShown(values) {
  const sorted = [...values].sort((one, other) => one - other);
  const few = Math.max(1, Math.min(3, Math.floor(sorted.length / 10)), Math.ceil(sorted.length / 100));
  const most = sorted.at(-1) ?? 0;
  const usual = sorted[Math.max(0, sorted.length - 1 - few)] ?? 0;
  return most > 2 * usual && usual > 0 ? usual * 1.25 : most;
}

// Marks at the upper edge where values are above it; of neighbours the largest is told.
function markAbove(pen, box, above, x) {
  const apart = 62;
  let labelled = null;
  const labels = [];
  for (const [ago, value] of above) {
    const place = Math.max(box.left + 5, x(ago));
    pen.fillStyle = "#f2a51a";
    pen.beginPath();
    pen.moveTo(place, box.top - 7);
    pen.lineTo(place + 5, box.top + 1);
    pen.lineTo(place - 5, box.top + 1);
    pen.fill();
    if (labelled !== null && place - labelled.place < apart) {
      if (value > labelled.value) labelled.value = value;
    } else labels.push(labelled = { place, value });
  }
  pen.font = "600 11px system-ui, sans-serif";
  pen.textBaseline = "middle";
  for (const { place, value } of labels) {
    const text = `${value.toFixed(0)} ms`;
    const width = pen.measureText(text).width;
    const left = Math.min(place + 7, box.right - width - 2);
    pen.fillStyle = "#111820";
    pen.fillRect(left - 2, box.top + 3, width + 4, 14);
    pen.fillStyle = "#f2a51a";
    pen.textAlign = "left";
    pen.fillText(text, left, box.top + 10);
  }
}

// rows: [seconds, capture to mask in ms, inference in ms]; deadline in ms or null.
// Returns how many frames are above the chart, the slowest of them in ms, and whether the deadline is, too.
export function drawLatency(canvas, rows, now, deadline) {
  const seen = rows.filter((row) => now - row[0] <= WINDOW_SECONDS);
  const slowest = seen.map((row) => Math.max(row[1], row[2]));
  const shown = Math.max(1, largestShown(slowest));
  const isFar = deadline !== null && seen.length > 0 && deadline > 4 * shown; // it would press everything flat
  const most = Math.max(shown, isFar ? 0 : deadline ?? 0);
  const step = niceStep((most * 1.08) / 4);
  const top = Math.ceil((most * 1.08) / step) * step;
  const { pen, box, x, y } = prepared(canvas, top, " ms");
  const above = seen.map((row, index) => [now - row[0], slowest[index]]).filter(([, value]) => value > top);
  pen.save();
  pen.beginPath();
  pen.rect(box.left, 0, box.right - box.left + 1, box.bottom + 1);
  pen.clip();
  line(pen, seen, 2, now, x, y, "#b79cff");
  line(pen, seen, 1, now, x, y, "#35c3f0");
  if (deadline !== null && !isFar) {
    pen.setLineDash([6, 4]);
    pen.strokeStyle = "#e5383b";
    pen.lineWidth = 1.5;
    pen.beginPath();
    pen.moveTo(box.left, y(deadline));
    pen.lineTo(box.right, y(deadline));
    pen.stroke();
    pen.setLineDash([]);
  }
  pen.restore();
  markAbove(pen, box, above, x);
  const last = seen.at(-1);
  const worst = Math.max(0, ...slowest);
  canvas.setAttribute("aria-label", last
    ? `Latency of the last minute, at most ${worst.toFixed(1)} ms; the newest frame took ${last[1].toFixed(1)} ms from capture to mask`
    : "Latency: no frame in the last minute");
  return { count: above.length, worst, isFar };
}

// rows: [seconds, {cause: drops so far}]; causes in the order of their colours.
export function drawDrops(canvas, rows, now, causes) {
  const count = WINDOW_SECONDS / BAR_SECONDS;
  const bars = Array.from({ length: count }, () => causes.map(() => 0));
  rows.slice(1).forEach(([seconds, drops], index) => {
    const bar = Math.floor((Math.floor(now / BAR_SECONDS) * BAR_SECONDS + BAR_SECONDS - seconds) / BAR_SECONDS);
    if (bar < 0 || bar >= count) return;
    causes.forEach((cause, place) => {
      bars[bar][place] += (drops[cause] ?? 0) - (rows[index][1][cause] ?? 0);
    });
  });
  const total = (bar) => bar.reduce((sum, value) => sum + value, 0);
  const most = Math.max(4, ...bars.map(total));
  const step = niceStep(most / 4);
  const { pen, box, x, y } = prepared(canvas, Math.ceil(most / step) * step, "");
  const width = (box.right - box.left) / count;
  bars.forEach((bar, place) => {
    let below = 0;
    bar.forEach((value, cause) => {
      if (value <= 0) return;
      pen.fillStyle = colourOfCause(cause);
      const high = Math.max(2, y(below) - y(below + value)); // beside a burst, a single one is seen, too
      pen.fillRect(x((place + 1) * BAR_SECONDS) + 1, y(below) - high, width - 2, high);
      below += value;
    });
  });
  const sum = bars.reduce((all, bar) => all + total(bar), 0);
  canvas.setAttribute("aria-label", `Dropped frames of the last minute: ${sum}`);
}
