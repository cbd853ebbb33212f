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
  const box = { left: 52, right: width - 6, top: 8, bottom: height - 20 };
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

// rows: [seconds, capture to mask in ms, inference in ms]; deadline in ms or null.
export function drawLatency(canvas, rows, now, deadline) {
  const seen = rows.filter((row) => now - row[0] <= WINDOW_SECONDS);
  const most = Math.max(1, ...seen.map((row) => Math.max(row[1], row[2])), deadline ?? 0);
  const step = niceStep((most * 1.08) / 4);
  const { pen, box, x, y } = prepared(canvas, Math.ceil((most * 1.08) / step) * step, " ms");
  pen.save();
  pen.beginPath();
  pen.rect(box.left, 0, box.right - box.left + 1, box.bottom + 1);
  pen.clip();
  line(pen, seen, 2, now, x, y, "#b79cff");
  line(pen, seen, 1, now, x, y, "#35c3f0");
  if (deadline !== null) {
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
  const last = seen.at(-1);
  canvas.setAttribute("aria-label", last
    ? `Latency of the last minute, at most ${most.toFixed(1)} ms; the newest frame took ${last[1].toFixed(1)} ms from capture to mask`
    : "Latency: no frame in the last minute");
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
      pen.fillRect(x((place + 1) * BAR_SECONDS) + 1, y(below + value), width - 2, y(below) - y(below + value));
      below += value;
    });
  });
  const sum = bars.reduce((all, bar) => all + total(bar), 0);
  canvas.setAttribute("aria-label", `Dropped frames of the last minute: ${sum}`);
}
