// Draws turns. Text of the model and of the user becomes text nodes only, never markup.

export function element(name, fields = {}, ...children) {
  const out = Object.assign(document.createElement(name), fields);
  out.append(...children);
  return out;
}

function button(label, title, action) {
  const out = element("button", {type: "button", textContent: label, title, onclick: action});
  out.setAttribute("aria-label", title);
  return out;
}

// `code` and **strong** of a paragraph.
function inline(text) {
  return text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/).map((piece) => {
    if (/^`[^`]+`$/.test(piece)) return element("code", {textContent: piece.slice(1, -1)});
    if (/^\*\*[^*]+\*\*$/.test(piece)) return element("strong", {textContent: piece.slice(2, -2)});
    return piece;
  });
}

// Text with fenced code in it.
function drawText(text, isOpen) {
  const out = [];
  const parts = text.split(/^```[^\n]*\n?/m);
  parts.forEach((part, i) => {
    const shown = part.replace(/^\n+|\n+$/g, "");
    if (i % 2 === 1) out.push(element("pre", {tabIndex: 0}, element("code", {textContent: shown})));
    else if (shown) out.push(element("p", {className: "text"}, ...inline(shown)));
  });
  if (isOpen) (out.at(-1) ?? out[out.push(element("p", {className: "text"})) - 1]).classList.add("caret");
  return out;
}

function drawThinking(turn, isFolded) {
  const isThinking = turn.isOpen && !turn.text && !turn.calls?.length;
  const time = turn.thinkingSeconds ? ` for ${turn.thinkingSeconds.toFixed(1)} s` : "";
  const label = isThinking ? "Thinking…" : `Thought${time}`;
  return element("details", {className: "thinking", open: !isFolded}, element("summary", {textContent: label}),
                 element("p", {className: "text", textContent: turn.reasoning}));
}

function drawCall(call) {
  const card = element("div", {className: "card call"}, element("h3", {textContent: `Calls ${call.name}`}));
  let values = null;
  try {
    values = JSON.parse(call.arguments);
  } catch {
    // Under way, or cut.
  }
  if (values && typeof values === "object") {
    const list = element("dl");
    for (const [name, value] of Object.entries(values)) {
      list.append(element("dt", {textContent: name}),
                  element("dd", {textContent: typeof value === "string" ? value : JSON.stringify(value)}));
    }
    card.append(list);
  } else {
    card.append(element("pre", {}, element("code", {textContent: call.arguments})));
  }
  return card;
}

function drawUsage(turn) {
  if (!turn.usage) return "";
  const {prompt_tokens: prompt, completion_tokens: completion, prompt_tokens_details: details} = turn.usage;
  const seconds = turn.seconds ?? 0;
  const time = seconds > 0 ? ` in ${seconds.toFixed(1)} s (${(completion / seconds).toFixed(1)} a second)` : "";
  return `${prompt} tokens of prompt (${details?.cached_tokens ?? 0} from the cache), ${completion} of answer${time}`;
}

const NAMES = {user: "You", assistant: "Cachalot"};
const ENDS = {length: "The answer was cut at its limit of tokens.", stopped: "Stopped."};

// The body of a turn; drawn anew while its answer comes.
export function drawBody(turn, isFolded = true) {
  const body = element("div", {className: "body"});
  if (turn.reasoning) body.append(drawThinking(turn, isFolded));
  const waits = turn.isOpen && !turn.reasoning && !turn.calls?.length;
  if (turn.text || waits) body.append(...drawText(turn.text, turn.isOpen));
  for (const call of turn.calls ?? []) body.append(drawCall(call));
  if (turn.error) body.append(element("p", {className: "error", role: "alert", textContent: turn.error}));
  return body;
}

// actions: edit(turn), again(turn), choose(turn, step). num, of: the turn among its branches.
export function drawTurn(turn, place, actions) {
  const name = turn.role === "tool" ? `Result of ${turn.name}` : NAMES[turn.role];
  const article = element("article", {className: turn.role, id: `turn-${turn.id}`},
                          element("h2", {textContent: name}), drawBody(turn));
  const foot = element("div", {className: "foot"});
  if (place.of > 1) {
    const before = button("‹", "The branch before", () => actions.choose(turn, -1));
    const after = button("›", "The branch after", () => actions.choose(turn, 1));
    before.disabled = place.num === 0;
    after.disabled = place.num === place.of - 1;
    foot.append(before, `${place.num + 1} of ${place.of}`, after);
  }
  if (!actions.isBusy && turn.role === "user") foot.append(button("Edit", "Edit as a new branch", () => actions.edit(turn)));
  if (!actions.isBusy && turn.role === "assistant")
    foot.append(button("Again", "Another answer, as a new branch", () => actions.again(turn)));
  if (turn.text && !turn.isOpen)
    foot.append(button("Copy", "Copy the text", () => navigator.clipboard?.writeText(turn.text)));
  foot.append(element("span", {className: "ending", textContent: ENDS[turn.end] ?? ""}),
              element("span", {className: "usage", textContent: drawUsage(turn)}));
  article.append(foot);
  return article;
}

// A form in the turn's place. done(text or null).
export function drawEdit(turn, done) {
  const box = element("textarea", {value: turn.text, rows: Math.min(turn.text.split("\n").length + 1, 16)});
  box.setAttribute("aria-label", "Edited message");
  const form = element("form", {className: "edit"}, box, element("div", {className: "row"},
    element("button", {type: "submit", className: "main", textContent: "Send as a new branch"}),
    element("button", {type: "button", textContent: "Leave as it is", onclick: () => done(null)})));
  form.onsubmit = (event) => {
    event.preventDefault();
    if (box.value.trim()) done(box.value);
  };
  box.onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
    if (event.key === "Escape") {
      event.stopPropagation();
      done(null);
    }
  };
  return {form, box};
}

// A form for the results of calls. done(texts, one for each call).
export function drawResults(calls, done) {
  const boxes = calls.map((call) => {
    const box = element("textarea", {rows: 2, placeholder: "What it gave"});
    box.setAttribute("aria-label", `Result of ${call.name}`);
    return box;
  });
  const form = element("form", {className: "results card"}, element("h3", {textContent: "Results of the calls"}));
  calls.forEach((call, i) => form.append(element("label", {}, call.name, boxes[i])));
  form.append(element("button", {type: "submit", className: "main", textContent: "Send the results"}));
  form.onsubmit = (event) => {
    event.preventDefault();
    done(boxes.map((box) => box.value));
  };
  return form;
}
