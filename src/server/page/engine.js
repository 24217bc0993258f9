// The engine's numbers, live while they are looked at.
import {metrics} from "./api.js";
import {element} from "./view.js";

const PERIOD_MS = 2000;

function rows(now, before, seconds) {
  const per = (name) => ((now[name] - before[name]) / seconds).toFixed(1);
  const mean = (name) => {
    const count = now[`${name}_count`] - before[`${name}_count`];
    return count > 0 ? `${(1000 * (now[`${name}_sum`] - before[`${name}_sum`]) / count).toFixed(0)} ms` : "none";
  };
  const steps = now.cachalot_engine_steps_total - before.cachalot_engine_steps_total;
  const batch = (now.cachalot_engine_rows_total - before.cachalot_engine_rows_total) / steps;
  const share = now.cachalot_cached_prompt_tokens_total / now.cachalot_prompt_tokens_total;
  return {
    "Answers under way": now.cachalot_requests_running,
    "In line": now.cachalot_requests_waiting,
    "Rows in a step": steps > 0 ? batch.toFixed(1) : "none",
    "Tokens a second": per("cachalot_completion_tokens_total"),
    "To the first token": mean("cachalot_time_to_first_token_seconds"),
    "Between tokens": mean("cachalot_time_between_tokens_seconds"),
    "Prompts from the cache": Number.isFinite(share) ? `${(100 * share).toFixed(1)} %` : "none",
    "Memory": `${(now.process_resident_memory_bytes / 2 ** 20).toFixed(0)} MiB`,
  };
}

// details: shows them while it is open. key(): of the API.
export function watchEngine(details, key) {
  const list = details.querySelector("dl");
  let before = null;
  let timer = 0;
  const show = (values) => list.replaceChildren(...Object.entries(values).flatMap(([name, value]) => (
    [element("dt", {textContent: name}), element("dd", {textContent: value})])));
  const look = async () => {
    try {
      const now = {at: performance.now(), values: await metrics(key())};
      if (before) show(rows(now.values, before.values, (now.at - before.at) / 1000));
      before = now;
    } catch (error) {
      show({Engine: error.message});
    }
    if (details.open && details.offsetParent) timer = setTimeout(look, before ? PERIOD_MS : PERIOD_MS / 4);
  };
  details.addEventListener("toggle", () => {
    clearTimeout(timer);
    if (details.open) look();
  });
}
