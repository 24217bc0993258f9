// A conversation is a tree of turns: an edited message or another answer is a branch beside the first. What is shown and
// sent is the path along each turn's chosen child.
//
// A turn: {id, parent, children, chosen, role, text}, and of an answer: reasoning, calls [{id, name, arguments}], usage,
// seconds, thinkingSeconds, error, isOpen; of a tool's result: callId, name.

const KEY = "cachalot.conversations";
let lastId = 0;

export function newId() {
  lastId = Math.max(lastId + 1, Date.now());
  return String(lastId);
}

export class Conversation {
  constructor(data) {
    this.id = data?.id ?? newId();
    this.turns = data?.turns ?? {root: {id: "root", children: [], chosen: 0}};
    for (const turn of Object.values(this.turns)) {
      if (!turn.isOpen) continue;
      turn.isOpen = false;
      turn.error = "The page was closed before the answer ended.";
    }
  }

  get title() {
    const first = this.path()[0];
    return first ? first.text.replace(/\s+/g, " ").slice(0, 60) : "New conversation";
  }

  path() {
    const out = [];
    let turn = this.turns.root;
    while (turn.children.length > 0) {
      turn = this.turns[turn.children[turn.chosen]];
      out.push(turn);
    }
    return out;
  }

  last() {
    return this.path().at(-1) ?? this.turns.root;
  }

  // A new child of `parent`, which becomes the chosen one.
  add(parent, fields) {
    const turn = {id: newId(), parent: parent.id, children: [], chosen: 0, text: "", ...fields};
    this.turns[turn.id] = turn;
    parent.chosen = parent.children.push(turn.id) - 1;
    return turn;
  }

  parent(turn) {
    return this.turns[turn.parent];
  }

  // Goes to the branch before (-1) or after (1).
  choose(turn, step) {
    const parent = this.parent(turn);
    parent.chosen = Math.min(Math.max(parent.chosen + step, 0), parent.children.length - 1);
  }

  // The calls of the last answer that have no result.
  openCalls() {
    const last = this.last();
    return last.role === "assistant" && !last.isOpen && !last.error ? last.calls ?? [] : [];
  }

  // As the API takes them.
  messages(upTo) {
    const out = [];
    for (const turn of this.path()) {
      if (turn === upTo) break;
      if (turn.role === "user") out.push({role: "user", content: turn.text});
      if (turn.role === "tool") out.push({role: "tool", tool_call_id: turn.callId, content: turn.text});
      if (turn.role !== "assistant") continue;
      const message = {role: "assistant", content: turn.text};
      if (turn.reasoning) message.reasoning_content = turn.reasoning;
      if (turn.calls?.length) {
        message.tool_calls = turn.calls.map((call) => (
          {id: call.id, type: "function", function: {name: call.name, arguments: call.arguments}}));
      }
      out.push(message);
    }
    return out;
  }
}

function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEY) ?? "[]");
  } catch {
    return [];  // what another version wrote
  }
}

// The one that was spoken in last comes first; at least one.
export function loadConversations() {
  const list = kept().map((data) => new Conversation(data));
  return list.length > 0 ? list : [new Conversation()];
}

// Leaves alone what another window keeps. Errors: a browser that keeps nothing, or not so much.
export function saveConversation(one) {
  const others = kept().filter((other) => other.id !== one.id);
  localStorage.setItem(KEY, JSON.stringify(one.path().length > 0 ? [one, ...others] : others));
}

export function forgetConversation(one) {
  localStorage.setItem(KEY, JSON.stringify(kept().filter((other) => other.id !== one.id)));
}
