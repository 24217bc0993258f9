// Calls of the server's API. Errors are ApiErrors, whose message says in words what is wrong.

export class ApiError extends Error {}

function headers(key) {
  return {"Content-Type": "application/json", ...(key ? {Authorization: `Bearer ${key}`} : {})};
}

async function open(path, key, options) {
  let answer;
  try {
    answer = await fetch(path, {...options, headers: headers(key)});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it still running?");
  }
  if (answer.ok) return answer;
  let message = "";
  try {
    message = (await answer.json()).error.message;
  } catch {
    // Not from the API.
  }
  if (answer.status === 401) message = "The server wants an API key: give one in the settings.";
  throw new ApiError(message || `The server answered with the status ${answer.status}.`);
}

export async function models(key) {
  return (await (await open("v1/models", key)).json()).data.map((model) => model.id);
}

export async function metrics(key) {
  const values = {};
  for (const line of (await (await open("metrics", key)).text()).split("\n")) {
    const found = /^([a-z_]+) (\S+)$/.exec(line);
    if (found) values[found[1]] = Number(found[2]);
  }
  return values;
}

// The chunks of a streamed answer, in order.
export async function* chat(body, key, signal) {
  const stream = {...body, stream: true, stream_options: {include_usage: true}};
  const answer = await open("v1/chat/completions", key, {method: "POST", body: JSON.stringify(stream), signal});
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    for (;;) {
      const {done, value} = await reader.read();
      if (done) break;
      const lines = (pending + value).split("\n");
      pending = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ")) continue;
        if (line === "data: [DONE]") return;
        const chunk = JSON.parse(line.slice(6));
        if (chunk.error) throw new ApiError(chunk.error.message);
        yield chunk;
      }
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    throw new ApiError("The connection broke before the answer ended.");
  }
  throw new ApiError("The connection ended before the answer did.");
}
