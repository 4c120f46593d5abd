// A stream of answers that lasts. gradio (6.31) closes its stream when no answer is due. An event sent just then
// can be accepted before the page learns of the close: nobody opens a stream for it, and it never ends.
// Here the stream is opened again as long as an answer is due.
(() => {
  const ask = window.fetch, sent = new Set(), due = new Set(), ended = new Set();

  async function join(...request) {
    const answer = await ask(...request);
    const { event_id } = await answer.clone().json().catch(() => ({}));
    if (event_id && !ended.delete(event_id)) due.add(event_id); // it may have ended before
    return answer;
  }

  async function* read(answer) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const messages = (text + part.value).split("\n\n");
      text = messages.pop();
      yield* messages;
    }
  }

  async function* follow(request, answer) {
    for await (const message of read(answer)) {
      const { msg, event_id } = JSON.parse(message.replace("data:", ""));
      if (msg === "process_completed" && !due.delete(event_id)) ended.add(event_id);
      if (msg === "close_stream") {
        await Promise.allSettled(sent);
        const again = due.size && await ask(request.clone());
        if (again.ok) { yield* follow(request, again); return; }
      }
      yield message;
    }
  }

  async function open(request) {
    const answer = await ask(request.clone()), encoder = new TextEncoder();
    if (!answer.ok) return answer;
    const body = new ReadableStream({
      async start(stream) {
        try {
          for await (const message of follow(request, answer)) stream.enqueue(encoder.encode(`${message}\n\n`));
          stream.close();
        } catch (error) { due.clear(); stream.error(error); }
      },
    });
    return new Response(body, answer);
  }

  window.fetch = (input, init) => {
    const { pathname } = new URL(input.url ?? input, location);
    if (pathname.endsWith("/queue/data")) return open(new Request(input, init));
    if (!pathname.endsWith("/queue/join")) return ask(input, init);
    const joining = join(input, init);
    sent.add(joining);
    joining.catch(() => {}).finally(() => sent.delete(joining));
    return joining;
  };
})();
