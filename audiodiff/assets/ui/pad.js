// A pad of buttons: a click plays the sound of its label, at once where the page has it, else once the server made it.
// `element`, `props`, `trigger` and `watch` are Gradio's. `props.value` has the labels, and the sound made last.
const KEYS = "1234567890qwertyuiop";
const sounds = new Map();  // settings and label, to decoded audio and a link to its file
const wanted = new Set();
const pad = element.querySelector(".pad"), download = element.querySelector("a");
let context;

const key = (label, settings = window.audiodiffSettings) => JSON.stringify([settings, label]);
const buttons = () => [...pad.children];

function fill(labels) {
  if (buttons().map((button) => button.dataset.label).join("\n") === labels.join("\n")) return;
  pad.replaceChildren(...labels.map((label, i) => {
    const button = document.createElement("button"), hint = document.createElement("kbd");
    button.type = "button";
    button.dataset.label = button.textContent = label;
    hint.textContent = KEYS[i] ?? "";
    if (hint.textContent) button.append(hint);
    return button;
  }));
}

function mark() {
  for (const button of buttons()) {
    button.classList.toggle("ready", sounds.has(key(button.dataset.label)));
    button.classList.toggle("busy", wanted.has(key(button.dataset.label)));
  }
}

function play({ audio, url, file }) {
  const source = context.createBufferSource();
  source.buffer = audio;
  source.connect(context.destination);
  source.start();
  Object.assign(download, { href: url, download: file, textContent: `Download ${file}`, hidden: false });
}

function press(label) {
  context ??= new AudioContext();  // browsers allow sound from here on, because somebody pressed something
  context.resume();
  if (sounds.has(key(label))) return play(sounds.get(key(label)));
  if (wanted.has(key(label))) return;
  wanted.add(key(label));
  mark();
  trigger("click", { label, settings: window.audiodiffSettings });
}

async function take({ labels, label, settings, sound, file }) {
  fill(labels);
  if (label !== undefined) {
    wanted.delete(key(label, settings));
    if (sound) {
      const bytes = Uint8Array.from(atob(sound), (character) => character.charCodeAt(0));
      const url = URL.createObjectURL(new Blob([bytes], { type: "audio/wav" }));
      const made = { audio: await context.decodeAudioData(bytes.buffer), url, file };
      sounds.set(key(label, settings), made);
      play(made);
    }
  }
  mark();
}

pad.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) press(button.dataset.label);
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=range]), textarea, select, [role=listbox]");
  if (typing || event.repeat || event.ctrlKey || event.metaKey || event.altKey || !pad.offsetParent) return;
  const button = buttons()[KEYS.indexOf(event.key)];
  if (button) press(button.dataset.label);
});
window.addEventListener("audiodiff-settings", mark);
watch("value", () => take(props.value));
take(props.value);
