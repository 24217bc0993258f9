// Fills a turn with an answer as it comes.
import {chat} from "./api.js";

function take(turn, delta) {
  turn.reasoning = (turn.reasoning ?? "") + (delta.reasoning_content ?? "");
  turn.text += delta.content ?? "";
  for (const piece of delta.tool_calls ?? []) {
    turn.calls ??= [];
    turn.calls[piece.index] ??= {id: piece.id, name: piece.function.name, arguments: ""};
    turn.calls[piece.index].arguments += piece.function.arguments ?? "";
  }
}

// changed(): something is to be drawn. Never throws: what went wrong is the turn's error.
export async function answer(turn, body, key, signal, changed) {
  const begin = performance.now();
  let thoughtBegin = 0;
  try {
    for await (const chunk of chat(body, key, signal)) {
      const choice = chunk.choices[0];
      if (chunk.usage) turn.usage = chunk.usage;
      if (!choice) continue;
      take(turn, choice.delta);
      const now = performance.now();
      if (choice.delta.reasoning_content) thoughtBegin ||= now;
      if (turn.reasoning && !turn.thinkingSeconds && (choice.delta.content || choice.delta.tool_calls))
        turn.thinkingSeconds = (now - thoughtBegin) / 1000;
      turn.seconds = (now - begin) / 1000;
      if (choice.finish_reason) turn.end = choice.finish_reason;
      changed();
    }
  } catch (error) {
    if (error.name === "AbortError") turn.end = "stopped";
    else turn.error = error.message;
  }
  // A call that was cut is none.
  if (turn.end !== "tool_calls") delete turn.calls;
  turn.isOpen = false;
}
