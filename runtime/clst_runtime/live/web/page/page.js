// The page: one WebSocket gives the status twice a second and, when asked by "next", the newest image.
// What is shown may never look newer than it is: without news, or with an old picture, the page says so itself.
// Of several cameras the address names the one that is shown (?camera=rear); the states of all stand above.

import { WINDOW_SECONDS, colourOfCause, drawDrops, drawLatency } from "/charts.js";

const CONTACT_MS = 2500; // without a status for so long, the program cannot be reached
const OLDEST_MS = 1500; // a picture of a live run that is older on this screen is called late, whatever the run says
const RATE_SECONDS = 5;
const WORDS = {
  connecting: () => "asking the program for its state",
  starting: () => "no mask yet: the model warms up or the camera has given nothing",
  ready: () => "masks come in time",
  stale: (run) => (run.deadline_ms !== null && run.deadline_streak > 0
    ? `${run.deadline_streak} deadlines missed in a row; newest image ${span(run.newest_age_ms)} old`
    : `newest image ${span(run.newest_age_ms)} old`),
  lost: (run) => `the camera gives nothing (lost ${run.losses} ${run.losses === 1 ? "time" : "times"}); it is being opened again${Number.isFinite(run.newest_age_ms) && run.frames ? `; newest image ${span(run.newest_age_ms)} old` : ""}`,
  behind: () => `the picture here is ${span(pictureAge())} old: the connection to this screen${status?.recording?.active ? ", or the disk that is recorded on," : ""} is slow`,
  unreachable: () => refused || `no word from the program for ${span(performance.now() - lastStatusAt)}: it was killed, or the connection is down; trying again`,
  ended: (run) => `${othersGoOn() ? "this camera has ended, others go on" : "the run is over"}: ${ENDS[run.end] ?? run.end}; picture and figures are its last`,
};
// Why a run ended, in words; other reasons are words already.
const ENDS = {
  "Ctrl-C": "somebody pressed Ctrl-C where it runs",
  SIGTERM: "it was asked to end (SIGTERM), as when a service is stopped",
  SIGHUP: "its terminal was closed (SIGHUP)",
  "the source has ended": "the source has no more frames",
  "the wanted number of frames": "it has the wanted number of frames",
  error: "an error ended it; the terminal or the log of the service says which",
};
// What is known of the camera: a word, and whether it is an alarm.
const CAMERA = {
  unknown: ["not enough frames yet", false],
  same: ["same camera", false],
  other: ["another camera", true],
  frozen: ["frozen", true],
  uniform: ["sees nothing", true],
};
const LEANING = {
  other: "looks like another camera, not sure yet",
  same: "looks like the model's camera again, not sure yet",
};
const HEADLINE = { behind: "late", unreachable: "no contact" };

const at = (id) => document.getElementById(id);
const say = (id, text) => { if (at(id).textContent !== text) at(id).textContent = text; };

const camera = new URLSearchParams(location.search).get("camera");
const ofCamera = (path) => (camera === null ? path : `${path}?camera=${encodeURIComponent(camera)}`);

let socket = null;
let status = null;
let refused = "";
let lastStatusAt = performance.now();
let retryMs = 500;
let picture = null; // { ageMs, at }
let asked = false;
let causes = [];
let knowsItsCamera = null; // whether the model has a reference; null until its facts are there
let rows = { frames: [], drops: [] };
let classes = []; // { entry, share } by id
let switching = false; // whether an answer to the button is awaited

function span(ms) {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return "–";
  if (ms < 1000) return `${ms.toFixed(0)} ms`;
  return ms < 60000 ? `${(ms / 1000).toFixed(1)} s` : clock(ms / 1000);
}

function clock(seconds) {
  const [hours, minutes, rest] = [seconds / 3600, (seconds / 60) % 60, seconds % 60].map(Math.floor);
  return `${hours ? `${hours}:` : ""}${String(minutes).padStart(hours ? 2 : 1, "0")}:${String(rest).padStart(2, "0")}`;
}

const pictureAge = () => (picture ? picture.ageMs + performance.now() - picture.at : Infinity);

// ---- connection

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${ofCamera("/live")}`);
  socket.binaryType = "arraybuffer";
  socket.addEventListener("open", () => {
    rows = { frames: [], drops: [] };
    asked = false;
    retryMs = 500;
    refused = "";
    askForPicture();
    loadFacts();
  });
  socket.addEventListener("message", (message) => {
    if (typeof message.data === "string") tookStatus(JSON.parse(message.data));
    else tookPicture(message.data);
  });
  socket.addEventListener("close", () => {
    socket = null;
    showState();
    if (status?.run.state !== "ended") findReason();
    setTimeout(connect, retryMs);
    retryMs = Math.min(retryMs * 2, 5000);
  });
}

async function findReason() {
  try {
    const answer = await fetch(ofCamera("/status.json"));
    refused = answer.ok ? "" : (await answer.text()).trim();
  } catch {
    refused = "";
  }
}

function askForPicture() {
  if (asked || document.hidden || socket?.readyState !== WebSocket.OPEN) return;
  asked = true;
  socket.send("next");
}

async function tookPicture(data) {
  const head = new DataView(data, 0, 8);
  const received = performance.now();
  try {
    const bitmap = await createImageBitmap(new Blob([new Uint8Array(data, 8)], { type: "image/jpeg" }));
    const canvas = at("picture");
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
      canvas.width = bitmap.width;
      canvas.height = bitmap.height;
    }
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    picture = { ageMs: head.getFloat32(4), at: received };
  } finally {
    asked = false;
    askForPicture();
  }
}

function tookStatus(told) {
  lastStatusAt = performance.now();
  status = told;
  rows.frames.push(...told.frames);
  rows.drops.push(...told.drops);
  const oldest = told.run.seconds - WINDOW_SECONDS - 4;
  rows.frames = rows.frames.filter((row) => row[0] >= oldest);
  rows.drops = rows.drops.filter((row) => row[0] >= oldest);
  showCameras(told.cameras ?? {});
  showState();
  showFigures();
  showCamera();
  showShares();
  showWarnings(told.run);
}

// ---- several cameras

const othersGoOn = () => Object.values(status.cameras ?? {}).some((state) => state !== "ended");

// Built anew only when something has changed, so that a link keeps its focus.
function showCameras(states) {
  const list = at("cameras");
  const names = Object.keys(states);
  const shown = JSON.stringify(states);
  list.hidden = names.length === 0;
  if (list.dataset.shown === shown) return;
  list.dataset.shown = shown;
  const focused = document.activeElement?.dataset.camera;
  list.replaceChildren(...names.map((name) => {
    const link = Object.assign(document.createElement("a"), { href: `?camera=${name}`, textContent: name });
    link.dataset.camera = name;
    link.dataset.state = states[name];
    link.append(Object.assign(document.createElement("small"), { textContent: states[name] }));
    if (name === (camera ?? names[0])) link.setAttribute("aria-current", "page");
    return link;
  }));
  list.querySelector(`[data-camera="${focused}"]`)?.focus();
}

// ---- state

function stateNow() {
  if (status?.run.state === "ended") return "ended";
  if (performance.now() - lastStatusAt > CONTACT_MS) return "unreachable";
  if (status === null) return "connecting";
  const state = status.run.state;
  const late = pictureAge() > Math.max(OLDEST_MS, status.stale_ms);
  return state === "ready" && status.live && picture !== null && !document.hidden && late ? "behind" : state;
}

function showState() {
  const state = stateNow();
  const old = picture !== null && !["ready", "starting"].includes(state);
  const headline = HEADLINE[state] ?? state;
  const words = WORDS[state](status?.run);
  document.body.dataset.state = state;
  document.body.classList.toggle("is-old", old || ["lost", "unreachable"].includes(state));
  document.body.classList.toggle("is-empty", picture === null);
  // seconds that run are for the eyes only; the ears hear each change of state once
  if (at("state-word").textContent !== headline) say("announcement", `${headline}: ${words}`);
  say("state-word", headline);
  say("state-words", words);
  const [big, small] = at("banner").children;
  big.textContent = headline;
  small.textContent = words;
  showCameraAlarm(state);
  if (status !== null) showRecording(status.recording);
  document.title = `${state === "ready" ? "" : `${headline.toUpperCase()} · `}${at("camera-band").hidden ? "" : `${at("camera-headline").textContent.toUpperCase()} · `}${camera === null ? "" : `${camera} · `}clst-run`;
}

// ---- the model's camera, or another one

const isWatched = (run) => Boolean(run.domain) && (run.domain.watching || run.state === "ended");
const shiftWords = (domain) => (domain.shift === null ? "" : `shift ${domain.shift.toFixed(1)}, another camera above ${domain.threshold}`);

// Not while nothing is known of now: an old verdict may be wrong in either direction.
function showCameraAlarm(state) {
  const domain = status !== null && state !== "unreachable" && isWatched(status.run) ? status.run.domain : null;
  const [headline, alarms] = domain === null ? ["", false] : CAMERA[domain.state];
  const band = at("camera-band");
  if (alarms) {
    say("camera-headline", headline === "another camera" ? headline : `camera ${headline}`);
    const shift = domain.state === "other" ? `: shift ${domain.shift.toFixed(1)}` : "";
    say("camera-mark", domain.state === "other" ? `this looks like another camera${shift}` : domain.words);
    say("camera-words", domain.words);
    if (band.dataset.state !== domain.state) say("camera-announcement", domain.words); // the ears hear it once
  }
  band.dataset.state = alarms ? domain.state : "";
  band.hidden = at("camera-mark").hidden = !alarms;
  document.body.classList.toggle("has-camera-alarm", alarms);
}

function showCamera() {
  const { domain } = status.run;
  const tile = at("camera-tile");
  tile.classList.remove("is-other", "is-bad");
  at("camera-kept").hidden = true;
  if (!isWatched(status.run)) {
    tile.classList.toggle("is-bad", Boolean(domain));
    const unknown = { true: "not watched", false: "no reference in this model", null: "–" }[knowsItsCamera];
    say("camera", domain ? "no longer watched" : unknown);
    say("camera-shift", domain ? "the monitor has stopped; the warnings say why"
      : knowsItsCamera === false ? "another camera is not noticed; export the model with --calib IMAGES" : "");
    return;
  }
  const [word, alarms] = CAMERA[domain.state];
  tile.classList.toggle("is-other", alarms);
  tile.classList.toggle("is-bad", domain.leaning === "other");
  say("camera", LEANING[domain.leaning] ?? word);
  const held = domain.leaning ? `${domain.held} of ${domain.needed} looks` : "";
  say("camera-shift", [shiftWords(domain), held, `${domain.window} frames in the window`].filter(Boolean).join("; "));
  const kept = domain.collected;
  at("camera-kept").hidden = kept === null;
  if (kept !== null) {
    const told = `${kept.frames} ${kept.frames === 1 ? "frame" : "frames"} of another camera kept in ${kept.folder} (${kept.mib} MiB there)`;
    say("camera-kept", kept.stopped ? `${told}; no more: ${kept.stopped}` : told);
  }
}

// ---- figures

function big(id, number, unit = "") {
  at(id).replaceChildren(number);
  if (unit) at(id).append(Object.assign(document.createElement("small"), { textContent: unit }));
}

function showFigures() {
  const { run } = status;
  say("running", run.frames ? clock(run.seconds) : "–");
  big("fps", run.frames ? recentFps(secondsNow(run)).toFixed(1) : "–");
  say("frames", `${run.fps.toFixed(1)} over the whole run: ${run.frames} frames, ${run.dropped} dropped`);
  const [age, unit] = span(run.newest_age_ms).split(" ");
  big("age", age, unit ?? "");
  say("age-limit", status.live ? `stale after ${span(status.stale_ms)}` : "");
  const limit = run.deadline_ms;
  big("misses", limit === null ? "–" : String(run.deadline_misses));
  say("deadline", limit === null ? "no deadline was given" : `${share(run)} of frames later than ${span(limit)}`);
  big("streak", limit === null ? "–" : String(run.deadline_streak));
  say("longest", limit === null ? "" : `longest ${run.deadline_longest_streak}, stale at ${status.stale_after}`);
  at("misses-tile").classList.toggle("is-bad", run.deadline_misses > 0);
  at("streak-tile").classList.toggle("is-bad", run.deadline_streak > 0);
  at("limit-key").hidden = limit === null;
  table(run);
  charts();
}

const share = (run) => `${run.frames ? ((100 * run.deadline_misses) / run.frames).toFixed(1) : 0} %`;

// A backend that hangs stops the run's own clock; the age of its newest image goes on.
function secondsNow(run) {
  const last = rows.frames.at(-1);
  return last ? Math.max(run.seconds, last[0] + (run.newest_age_ms - last[1]) / 1000) : run.seconds;
}

function recentFps(now) {
  const seconds = Math.min(RATE_SECONDS, now);
  return seconds > 0 ? rows.frames.filter((row) => row[0] > now - seconds).length / seconds : 0;
}

function table(run) {
  const lines = [["capture → mask", run.capture_to_mask_ms], ["inference", run.inference_ms]].map(([name, values]) => {
    const line = document.createElement("tr");
    line.append(Object.assign(document.createElement("th"), { textContent: name, scope: "row" }));
    for (const key of ["median", "p90", "p99", "max"]) {
      line.append(Object.assign(document.createElement("td"), { textContent: values[key]?.toFixed(1) ?? "–" }));
    }
    return line;
  });
  at("latencies").replaceChildren(...lines);
}

function charts() {
  if (status === null) return;
  const { run } = status;
  for (const cause of Object.keys(run.drops)) if (!causes.includes(cause)) causes.push(cause);
  const { count, worst, isFar } = drawLatency(at("latency"), rows.frames, secondsNow(run), run.deadline_ms);
  say("limit-key", isFar ? `deadline ${span(run.deadline_ms)}, above the chart` : "deadline");
  at("over").hidden = count === 0;
  say("over", `${count} ${count === 1 ? "frame" : "frames"} above the chart, at most ${span(worst)}`);
  drawDrops(at("drops"), rows.drops, secondsNow(run), causes);
  const entries = causes.filter((cause) => run.drops[cause]).map((cause) => {
    const entry = document.createElement("li");
    entry.style.setProperty("--colour", colourOfCause(causes.indexOf(cause)));
    entry.textContent = `${cause} ${run.drops[cause]}`;
    return entry;
  });
  const none = Object.assign(document.createElement("li"), { className: "none", textContent: "none so far" });
  at("causes").replaceChildren(...(entries.length ? entries : [none]));
}

function showWarnings(run) {
  const told = [...run.failures.map((words) => `stopped: ${words}`), ...run.warnings].slice(-8);
  at("warnings").hidden = told.length === 0;
  at("warnings").querySelector("ul").replaceChildren(
    ...told.map((words) => Object.assign(document.createElement("li"), { textContent: words })));
}

// ---- recording

function showRecording(recording) {
  const button = at("record");
  const over = ["ended", "unreachable"].includes(stateNow());
  button.disabled = !recording.possible || over || switching;
  button.setAttribute("aria-pressed", String(recording.active));
  say("record", recording.active ? "Stop recording" : "Start recording");
  at("record-words").classList.toggle("failed", recording.failed);
  at("mark").hidden = !recording.active;
  const going = `${recording.file}: ${recording.frames} frames, ${clock(recording.seconds)}`;
  at("record-words").setAttribute("aria-live", recording.active ? "off" : "polite");
  say("record-words", recording.possible ? (recording.active ? going : recording.message) : recording.reason);
  showFinished(recording.finished, over);
}

// Built anew only when something has changed, so that a link keeps its focus.
function showFinished(finished, over) {
  const list = at("recordings");
  const shown = JSON.stringify([finished, over]);
  if (list.dataset.shown === shown) return;
  list.dataset.shown = shown;
  list.hidden = finished.length === 0;
  list.replaceChildren(...[...finished].reverse().map(({ file, frames, mib }) => {
    const entry = document.createElement("li");
    const place = ofCamera(`/recordings/${encodeURIComponent(file)}`);
    const link = (text, more) => Object.assign(document.createElement("a"), { href: place, textContent: text, ...more });
    if (over) entry.append(file); // nobody serves it any more
    else entry.append(link(file, { download: file, title: `download ${file}` }));
    if (!over && file.endsWith(".mp4")) entry.append(link("play", { target: "_blank", rel: "noopener", ariaLabel: `play ${file}` }));
    const words = `${frames} ${frames === 1 ? "frame" : "frames"}, ${mib < 0.1 ? "< 0.1" : mib} MiB`;
    entry.append(Object.assign(document.createElement("small"), { textContent: words }));
    return entry;
  }));
}

async function switchRecording() {
  switching = true;
  at("record").disabled = true;
  const on = at("record").getAttribute("aria-pressed") !== "true";
  try {
    const answer = await fetch(ofCamera("/recording"), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ on }),
    });
    if (answer.ok) status.recording = await answer.json();
    else Object.assign(status.recording, { failed: true, message: (await answer.text()).trim() });
  } catch {
    Object.assign(status.recording, { failed: true, message: "the program cannot be reached" });
  } finally {
    switching = false;
    showRecording(status.recording);
    if (document.activeElement === document.body) at("record").focus(); // lost while it was disabled
  }
}

// ---- classes

function makeClasses(told) {
  classes = told.map(({ name, colour }) => {
    const entry = document.createElement("li");
    entry.style.setProperty("--colour", `rgb(${colour.join(" ")})`);
    entry.append(document.createElement("i"));
    entry.append(Object.assign(document.createElement("bdi"), { textContent: name, title: name }));
    const share = document.createElement("span");
    entry.append(share);
    return { entry, share };
  });
  at("legend").replaceChildren(...classes.map(({ entry }) => entry));
  if (status !== null) showShares();
}

// The largest first; entries are moved only where the order has changed, so that the list can be scrolled.
function showShares() {
  const { shares } = status;
  if (shares.length !== classes.length) return; // no mask, or no names yet
  classes.forEach(({ entry, share }, id) => {
    const percent = 100 * shares[id];
    share.textContent = percent > 0 && percent < 0.1 ? "< 0.1 %" : `${percent.toFixed(1)} %`;
    entry.style.setProperty("--share", `${percent}%`);
    entry.classList.toggle("is-absent", percent === 0);
  });
  const order = classes.map((_, id) => id).sort((one, other) => shares[other] - shares[one] || one - other);
  order.forEach((id, place) => {
    const { entry } = classes[id];
    const here = at("legend").children[place];
    if (here !== entry) at("legend").insertBefore(entry, here);
  });
}

// ---- facts

function pairs(id, entries) {
  at(id).replaceChildren(...entries.filter(([, value]) => value !== "" && value !== null && value !== undefined)
    .flatMap(([name, value]) => [
      Object.assign(document.createElement("dt"), { textContent: name }),
      Object.assign(document.createElement("dd"), { textContent: String(value) }),
    ]));
}

const number = (value) => (typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(5)) : value);
const plain = (value) => (Array.isArray(value) ? value.map(plain).join(", ")
  : value && typeof value === "object" ? `(${listed(value)})` : String(number(value)));
const listed = (values) => Object.entries(values).map(([name, value]) => `${name.replaceAll("_", " ")} ${plain(value)}`).join(" · ");

// Numbers and words only: what a manifest lists for machines (hashes, counts of pixels) would fill the screen.
const scalars = (values) => listed(Object.fromEntries(
  Object.entries(values).filter(([, value]) => value !== null && typeof value !== "object")));

function parityWords(parity) {
  const { agreement, frames, reference, labelled, miou, reference_miou: before } = parity;
  if (![agreement, frames].every(Number.isFinite)) return scalars(parity) || "not measured at export";
  const percent = (value, digits) => `${(100 * value).toFixed(digits)} %`;
  const accuracy = labelled && Number.isFinite(miou) && Number.isFinite(before)
    ? `; mIoU ${percent(miou, 2)}, was ${percent(before, 2)}` : "";
  return `${percent(agreement, 3)} of pixels as ${reference ?? "the reference"}, ${frames} images${accuracy}`;
}

async function loadFacts() {
  let told;
  try {
    const answer = await fetch(ofCamera("/facts.json"));
    if (!answer.ok) return;
    told = await answer.json();
  } catch {
    return; // the socket tells that the program has gone
  }
  const { run, machine } = told;
  knowsItsCamera = run.knows_its_camera;
  if (status !== null) showCamera();
  for (const id of ["source", "backend"]) {
    say(id, run[id]); // cut off where it is long; the whole stands among the facts
    at(id).title = run[id];
  }
  makeClasses(run.classes);
  pairs("model", [
    ["file", run.model],
    ["network", run.network],
    ["input", `${run.input_hw[0]} rows × ${run.input_hw[1]} columns, ${run.fit}`],
    ["precision", run.precision + (run.has_confidence ? ", with confidence" : "")],
    ["classes", `${run.classes.length} (${run.class_list})`],
    ["parity", parityWords(run.parity)],
    ["engine", scalars(run.engine)],
    ["checkpoint", run.checkpoint.slice(0, 12)],
    ["made by", listed(run.tool_versions)],
  ]);
  const used = [["source", run.source], ["backend", run.backend]];
  if (machine === null) {
    pairs("device", [...used, ["machine", "being found out …"]]);
    setTimeout(loadFacts, 1000);
    return;
  }
  if (machine.error) {
    pairs("device", [...used, ["unknown", machine.error]]);
    return;
  }
  pairs("device", [
    ...used,
    ["GPU", machine.gpus.join(", ") || "none that nvidia-smi names"],
    ["processor", `${machine.cpu}, ${machine.cores} cores`],
    ["memory", `${machine.memory_gib} GiB`],
    ["system", `${machine.system}, Python ${machine.python}`],
    ["packages", listed(machine.packages)],
  ]);
}

at("record").addEventListener("click", switchRecording);
document.addEventListener("visibilitychange", () => { showState(); askForPicture(); });
window.addEventListener("resize", charts);
setInterval(showState, 250);
connect();
