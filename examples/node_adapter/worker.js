// A worker in Node.js that uses only its standard library. guides/adapters.md describes the protocol.
const commands = {
  ping: () => ({ status: "ok", pid: process.pid }),
  echo: (args) => args,
  word_lengths: ({ text }) => text.split(/\s+/).filter(Boolean).map((word) => word.length),
  sleep: ({ ms }, { signal }) =>
    new Promise((resolve, reject) => {
      const timer = setTimeout(() => resolve({ slept: ms }), ms);
      signal.addEventListener("abort", () => {
        clearTimeout(timer);
        reject(new Error("cancelled"));
      });
    }),
  count: (_args, { session }) => ({ count: (session.count = (session.count ?? 0) + 1) }),
};

const running = new Map(); // the AbortControllers of calls, by id
const sessions = new Map(); // { generation, state }, by session id

const controls = {
  $health: () => ({ healthy: true, running: running.size }),
  $info: () => ({ worker_type: "node", version: process.version, supported_commands: Object.keys(commands) }),
  $cancel: ({ id }) => running.get(id)?.abort() ?? {},
  $end_session: ({ session_id }) => ({ ended: sessions.delete(session_id) }),
};

function session({ session_id, session_generation }) {
  const known = sessions.get(session_id);
  if (known && known.generation === session_generation) return known.state;
  const state = {};
  if (session_id !== undefined) sessions.set(session_id, { generation: session_generation, state });
  return state;
}

async function answer(request) {
  const { id, command, args } = request;
  if (command in controls) return { result: controls[command](args) };
  if (!Object.hasOwn(commands, command)) return refusal("unknown_command", `there is no command ${command}`);
  const controller = new AbortController();
  running.set(id, controller);
  try {
    return { result: await commands[command](args, { signal: controller.signal, session: session(request) }) };
  } catch (error) {
    const detail = { type: error.name, message: error.message, traceback: error.stack };
    return refusal(controller.signal.aborted ? "cancelled" : "python_error", String(error), detail);
  } finally {
    running.delete(id);
  }
}

const refusal = (reason, error, detail = {}) => ({ error, error_detail: { reason, ...detail } });

function send(message) {
  const body = Buffer.from(JSON.stringify(message));
  const length = Buffer.alloc(4);
  length.writeUInt32BE(body.length);
  process.stdout.write(Buffer.concat([length, body]));
}

let seen = Buffer.alloc(0);
process.stdin.on("data", (data) => {
  seen = Buffer.concat([seen, data]);
  while (seen.length >= 4 && seen.length >= 4 + seen.readUInt32BE(0)) {
    const end = 4 + seen.readUInt32BE(0);
    const request = JSON.parse(seen.subarray(4, end).toString());
    seen = seen.subarray(end);
    answer(request).then((answered) => {
      const success = answered.error === undefined;
      send({ id: request.id, success, timestamp: Date.now() * 1e6, ...answered });
    });
  }
});

// Only the protocol may write to standard output.
console.log = console.error;
// Standard input ends when the parent is gone.
process.stdin.on("end", () => process.exit(0));

// The first SIGTERM may come from elsewhere while calls are running; the pool sends the second one.
process.once("SIGTERM", () => {
  send({ draining: true });
  process.once("SIGTERM", () => process.exit(0));
});
