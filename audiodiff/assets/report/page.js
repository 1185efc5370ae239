"use strict";
const { systems, items } = JSON.parse(document.getElementById("data").textContent);
const players = [...document.querySelectorAll("audio[data-item]")];
const columns = ["test", "listener", "item", "system", "other", "x", "answer", "score", "seconds"];
let unsaved = 0;

// --- players: one at a time, and a count of those that this browser can play ---------------------------------------
function showReady() {
  const ready = players.filter((player) => player.readyState >= 1).length;
  const broken = players.filter((player) => player.error).length;
  document.getElementById("ready").textContent =
    `${ready} of ${players.length} players ready` + (broken ? `, ${broken} cannot be played by this browser` : "");
}
for (const player of players) {
  player.addEventListener("loadedmetadata", showReady);
  player.addEventListener("error", showReady);
}
document.addEventListener("play", (event) => {
  for (const player of [...players, probe]) if (player !== event.target) player.pause();
}, true);
showReady();

// --- what both tests share -----------------------------------------------------------------------------------------
const probe = new Audio(); // plays what is tested, so that no visible player gives a clip away
document.body.append(probe);
const source = (item, system) =>
  players.find((player) => player.dataset.item === item && player.dataset.system === system).src;
function shuffled(list) {
  const copy = [...list];
  for (let i = copy.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [copy[i], copy[j]] = [copy[j], copy[i]];
  }
  return copy;
}
const quoted = (value) => `"${String(value).replaceAll('"', '""')}"`;
const toCsv = (answers) =>
  [columns, ...answers.map((answer) => columns.map((column) => answer[column] ?? ""))]
    .map((row) => row.map(quoted).join(",")).join("\r\n") + "\r\n";
function download(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
}
addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });

// A test is a list of trials. `sounds(trial)` gives what each play button plays, `record(trial, answer)` the row of the CSV.
function makeTest(id, { trials, sounds, record, verdict, keys }) {
  const section = document.getElementById(id);
  const [form, panel] = [section.querySelector("form"), section.querySelector(".trial")];
  const [progress, result, save] = [".progress", ".result", ".download"].map((name) => section.querySelector(name));
  const answerButtons = [...panel.querySelectorAll("[data-answer]")];
  const playButtons = [...panel.querySelectorAll("[data-play]")];
  const answers = [];
  let queue = [], done = 0, heard = new Set(), began = 0, listener = "";

  function quiet() {
    probe.pause();
    for (const button of playButtons) button.classList.remove("playing");
  }
  function show() {
    quiet();
    heard = new Set();
    for (const button of answerButtons) button.disabled = true;
    if (done === queue.length) {
      panel.hidden = true;
      result.textContent = verdict(answers);
      document.activeElement?.blur();
      return;
    }
    progress.textContent = `${done + 1} of ${queue.length}`;
    began = performance.now();
  }
  function play(name) {
    if (panel.hidden) return;
    quiet();
    probe.src = sounds(queue[done])[name];
    probe.currentTime = 0;
    probe.play().catch((error) => { // which also happens where another clip is asked for before this one has begun
      if (error.name === "NotSupportedError") result.textContent = "This browser does not play the clip.";
    });
    playButtons.find((button) => button.dataset.play === name).classList.add("playing");
    heard.add(name);
    const enough = playButtons.every((button) => heard.has(button.dataset.play));
    for (const button of answerButtons) button.disabled = !enough;
  }
  function answer(value) {
    if (panel.hidden || answerButtons[0].disabled) return;
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    answers.push({ test: id, listener, seconds, ...record(queue[done], value) });
    unsaved += 1;
    save.hidden = false;
    done += 1;
    show();
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const settings = Object.fromEntries(new FormData(form));
    listener = settings.listener.trim();
    queue = trials(settings);
    done = 0;
    result.textContent = queue.length ? "" : "Choose two different systems.";
    panel.hidden = !queue.length;
    if (queue.length) show();
  });
  for (const button of playButtons) button.addEventListener("click", () => play(button.dataset.play));
  for (const button of answerButtons) button.addEventListener("click", () => answer(button.dataset.answer));
  save.addEventListener("click", () => {
    download(`${id}-${listener.replace(/\W+/g, "-")}.csv`, toCsv(answers));
    unsaved = 0;
  });
  probe.addEventListener("ended", quiet);
  document.addEventListener("keydown", (event) => {
    if (panel.hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input, select") || !isNear(panel)) return;
    const [kind, value] = keys[event.key.toLowerCase()] ?? [];
    if (event.key === "Escape") quiet();
    else if (kind === "play") play(value);
    else if (kind === "answer") answer(value);
    else return;
    event.preventDefault();
  });
}
// With both tests begun, keys belong to the one in view.
function isNear(panel) {
  const box = panel.getBoundingClientRect();
  return box.bottom > 0 && box.top < innerHeight;
}

// --- the tests -----------------------------------------------------------------------------------------------------
const [first, second] = document.querySelectorAll("#abx-setup select");
for (const select of [first, second]) for (const system of systems) select.add(new Option(system));
second.selectedIndex = 1;

makeTest("abx", {
  trials: (settings) => settings.first === settings.second ? [] : shuffled(items).map((item) => {
    const [a, b] = shuffled([settings.first, settings.second]);
    return { item, A: a, B: b, x: Math.random() < 0.5 ? "A" : "B" };
  }),
  sounds: ({ item, A, B, x }) => ({
    A: source(item, A), B: source(item, B), X: source(item, x === "A" ? A : B),
  }),
  record: ({ item, A, B, x }, answer) => ({ item, system: A, other: B, x, answer, score: answer === x ? 1 : 0 }),
  verdict: (answers) => `${answers.filter((answer) => answer.score).length} of ${answers.length} right.`,
  keys: { a: ["play", "A"], b: ["play", "B"], x: ["play", "X"], 1: ["answer", "A"], 2: ["answer", "B"] },
});

makeTest("mos", {
  trials: () => shuffled(items.flatMap((item) => systems.map((system) => ({ item, system })))),
  sounds: ({ item, system }) => ({ clip: source(item, system) }),
  record: ({ item, system }, answer) => ({ item, system, answer, score: answer }),
  verdict: (answers) => `${answers.length} clips rated. Thank you.`,
  keys: { p: ["play", "clip"], ...Object.fromEntries(["1", "2", "3", "4", "5"].map((mark) => [mark, ["answer", mark]])) },
});
