// The page: what its controls do.
import {models} from "./api.js";
import {answer} from "./answer.js";
import {Conversation, forgetConversation, loadConversations, saveConversation} from "./conversation.js";
import {watchEngine} from "./engine.js";
import {drawBody, drawEdit, drawResults, drawTurn, element} from "./view.js";

const SETTINGS_KEY = "cachalot.settings";
const SETTINGS = ["model", "temperature", "max-tokens", "key", "system", "tools", "tool-choice", "effort"];
const SAVE_PERIOD_MS = 1000;

const $ = (id) => document.getElementById(id);
const list = loadConversations();
let current = list[0];
let stopper = null;  // of the answer under way
let editing = null;
let files = [];

function say(text) {
  $("status").textContent = text;
}

function save() {
  try {
    saveConversation(current);
  } catch {
    say("The browser keeps no more: this conversation will be gone after a reload. Delete older ones.");
    $("status").classList.remove("unseen");
  }
}

// ---- settings

function saveSettings() {
  localStorage.setItem(SETTINGS_KEY, JSON.stringify(Object.fromEntries(SETTINGS.map((id) => [id, $(id).value]))));
}

function loadSettings() {
  const kept = JSON.parse(localStorage.getItem(SETTINGS_KEY) ?? "{}");
  if (kept.model) $("model").append(new Option(kept.model));
  for (const id of SETTINGS) if (kept[id] !== undefined) $(id).value = kept[id];
}

async function listModels() {
  const chosen = $("model").value;
  try {
    const names = await models($("key").value);
    $("model").replaceChildren(...names.map((name) => new Option(name)));
    if (names.includes(chosen)) $("model").value = chosen;
  } catch (error) {
    say(error.message);
  }
}

// Throws what is wrong with the tools, in words.
function body(messages) {
  const out = {messages};
  if ($("model").value) out.model = $("model").value;
  if ($("system").value.trim()) out.messages = [{role: "system", content: $("system").value}, ...messages];
  if ($("temperature").value) out.temperature = Number($("temperature").value);
  if ($("max-tokens").value) out.max_tokens = Number($("max-tokens").value);
  if ($("effort").value) out.reasoning_effort = $("effort").value;
  if (!$("tools").value.trim()) return out;
  let tools;
  try {
    tools = JSON.parse($("tools").value);
  } catch (error) {
    throw new Error(`The tools in the settings are no JSON: ${error.message}`);
  }
  if (!Array.isArray(tools)) throw new Error("The tools in the settings are no list.");
  out.tools = tools.map((tool) => (tool.function ? tool : {type: "function", function: tool}));
  out.tool_choice = $("tool-choice").value;
  return out;
}

// ---- what is shown

const actions = {
  get isBusy() { return stopper !== null; },
  edit(turn) {
    editing = turn.id;
    draw();
  },
  again(turn) {
    run(current.parent(turn), turn);
  },
  choose(turn, step) {
    current.choose(turn, step);
    save();
    draw();
  },
};

function drawOne(turn) {
  if (turn.id === editing) {
    const {form, box} = drawEdit(turn, (text) => {
      editing = null;
      if (text === null) draw();
      else run(current.add(current.parent(turn), {role: "user", text}));
    });
    queueMicrotask(() => box.focus());
    return form;
  }
  const parent = current.parent(turn);
  return drawTurn(turn, {num: parent.children.indexOf(turn.id), of: parent.children.length}, actions);
}

function draw() {
  $("conversations").replaceChildren(...list.map((one) => new Option(one.title, one.id)));
  $("conversations").value = current.id;
  for (const id of ["new", "remove", "conversations", "send"]) $(id).disabled = actions.isBusy;
  $("send").hidden = actions.isBusy;
  $("stop").hidden = !actions.isBusy;
  const path = current.path();
  $("turns").replaceChildren(...path.map(drawOne));
  if (path.length === 0)
    $("turns").append(element("p", {className: "welcome", textContent: "Ask the model something."}));
  const calls = current.openCalls();
  if (calls.length > 0 && !actions.isBusy) $("turns").append(drawResults(calls, sendResults));
}

function isAtEnd() {
  const turns = $("turns");
  return turns.scrollHeight - turns.scrollTop - turns.clientHeight < 60;
}

function scrollToEnd() {
  $("turns").scrollTop = $("turns").scrollHeight;
}

// ---- answers

// An answer after `parent`; `upTo`: the turn in whose place it comes.
async function run(parent, upTo) {
  if (actions.isBusy) return;
  const messages = current.messages(upTo);
  const turn = current.add(parent, {role: "assistant", isOpen: true});
  stopper = new AbortController();
  say("The answer begins.");
  draw();
  scrollToEnd();
  let isDrawn = false;
  let saved = performance.now();
  const changed = () => {
    if (isDrawn) return;
    isDrawn = true;
    requestAnimationFrame(() => {
      isDrawn = false;
      if (!turn.isOpen) return;
      const article = $(`turn-${turn.id}`);
      const follows = isAtEnd();
      const isFolded = !article.querySelector("details.thinking")?.open;
      const hasFocus = document.activeElement?.closest(".thinking") && article.contains(document.activeElement);
      article.querySelector(".body").replaceWith(drawBody(turn, isFolded));
      if (hasFocus) article.querySelector("summary")?.focus();
      if (follows) scrollToEnd();
      if (performance.now() - saved > SAVE_PERIOD_MS) {
        save();
        saved = performance.now();
      }
    });
  };
  save();
  try {
    await answer(turn, body(messages), $("key").value, stopper.signal, changed);
  } catch (error) {
    turn.error = error.message;
    turn.isOpen = false;
  }
  stopper = null;
  save();
  const follows = isAtEnd();
  draw();
  if (follows) scrollToEnd();
  say(turn.error ?? "The answer is complete.");
  ($("turns").querySelector(".results textarea") ?? $("message")).focus();
}

function send() {
  const typed = $("message").value.trim();
  if (actions.isBusy || (!typed && files.length === 0)) return;
  const fence = "```";
  const text = [...files.map(({name, content}) => `${name}:\n${fence}\n${content}\n${fence}`), typed].join("\n\n").trim();
  files = [];
  drawFiles();
  $("message").value = "";
  fit();
  run(current.add(current.last(), {role: "user", text}));
}

function sendResults(texts) {
  let last = current.last();
  const calls = last.calls;
  calls.forEach((call, i) => {
    last = current.add(last, {role: "tool", text: texts[i], callId: call.id, name: call.name});
  });
  run(last);
}

// ---- the composer

function fit() {
  const box = $("message");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}

function drawFiles() {
  $("files").replaceChildren(...files.map((file) => {
    const drop = element("button", {type: "button", textContent: "×", onclick: () => {
      files = files.filter((other) => other !== file);
      drawFiles();
    }});
    drop.setAttribute("aria-label", `Take ${file.name} out`);
    return element("span", {}, file.name, drop);
  }));
}

async function addFiles() {
  for (const file of $("file").files) files.push({name: file.name, content: await file.text()});
  $("file").value = "";
  drawFiles();
}

// ---- begin

$("composer").onsubmit = (event) => {
  event.preventDefault();
  send();
};
$("message").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
};
$("message").oninput = fit;
$("file").onchange = addFiles;
$("stop").onclick = () => stopper?.abort();
document.onkeydown = (event) => {
  if (event.key === "Escape") stopper?.abort();
};
$("new").onclick = () => {
  if (list[0].path().length > 0) list.unshift(new Conversation());
  current = list[0];
  draw();
  $("message").focus();
};
$("remove").onclick = () => {
  if (!confirm(`Delete “${current.title}”?`)) return;
  forgetConversation(current);
  list.splice(list.indexOf(current), 1);
  if (list.length === 0) list.push(new Conversation());
  current = list[0];
  draw();
};
$("conversations").onchange = () => {
  current = list.find((one) => one.id === $("conversations").value);
  editing = null;
  draw();
  scrollToEnd();
};
$("settings-button").onclick = () => {
  $("settings").hidden = !$("settings").hidden;
  $("settings-button").setAttribute("aria-expanded", String(!$("settings").hidden));
};
for (const id of SETTINGS) $(id).addEventListener("change", saveSettings);
$("key").addEventListener("change", listModels);

try {
  loadSettings();
} catch {
  // What another version wrote.
}
listModels();
watchEngine($("engine"), () => $("key").value);
draw();
scrollToEnd();
$("message").focus();
