/* Shared helpers: page elements, and requests that are retried while the service is busy. */

const SETTINGS = JSON.parse(document.getElementById("settings").textContent);
const LIMITS = SETTINGS.limits;
// Attempts per request while the service is busy, and the seconds within which they are made.
const MAX_ATTEMPTS = 5;
const RETRY_WINDOW_S = 30;

/* An error with a message for the user and the HTTP status; 0: no response. */
class Fault extends Error {
  constructor(message, status = null) {
    super(message);
    this.status = status;
  }

  /* Whether a retry may succeed. */
  get isTransient() {
    return this.status === 0 || this.status >= 500;
  }
}

function byId(id) {
  return document.getElementById(id);
}

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function number(value) {
  return value.toLocaleString("en");
}

function size(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1).replace(/\.0$/, "")} MB`;
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function listed(names) {
  return names.length > 1 ? `${names.slice(0, -1).join(", ")} and ${names.at(-1)}` : names.join("");
}

/* Each call aborts the previous piece of work and returns the signal of the next one. */
function latestOnly() {
  let current = new AbortController();
  return () => {
    current.abort();
    current = new AbortController();
    return current.signal;
  };
}

/* Posts a request and returns what `read` makes of the response.
   Throws a Fault if the service reports an error or does not respond, and the abort reason if the signal aborts. */
async function post(path, body, { signal, read, onBusy }) {
  const began = performance.now();
  for (let attempt = 1; ; attempt += 1) {
    const withTimeout = AbortSignal.any([signal, AbortSignal.timeout(1000 * SETTINGS.timeout_s[path])]);
    const response = await orFault(signal, path, () => fetch(path, { method: "POST", body, signal: withTimeout }));
    if (response.ok) return orFault(signal, path, () => read(response));
    const message = await errorMessage(response);
    signal.throwIfAborted();
    const seconds = Number(response.headers.get("Retry-After")) || 1;
    const isLate = (performance.now() - began) / 1000 + seconds > RETRY_WINDOW_S;
    if (response.status !== 503 || attempt === MAX_ATTEMPTS || isLate) throw new Fault(message, response.status);
    onBusy(`The service is busy; retrying in ${seconds} s (${attempt} of ${MAX_ATTEMPTS - 1}).`);
    await pause(seconds, signal);
  }
}

async function orFault(signal, path, action) {
  try {
    return await action();
  } catch (error) {
    signal.throwIfAborted();
    const isTimeout = error.name === "TimeoutError";
    const problem = isTimeout ? `did not respond within ${SETTINGS.timeout_s[path]} s` : "is not responding";
    throw new Fault(`The service ${problem}. Your input is kept: check that the service is running, and try again.`, 0);
  }
}

async function errorMessage(response) {
  const content = await response.json().catch(() => null);
  return typeof content?.error === "string" ? content.error : `The service responded with status ${response.status}.`;
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

/* Shows an error, with a button to try again if that may help. */
function showFault(place, error, retry) {
  place.replaceChildren(make("p", { textContent: error.message }));
  if (error.isTransient) place.append(make("button", { type: "button", textContent: "Try again", onclick: retry }));
  place.scrollIntoView({ block: "nearest" });
  if (!(error instanceof Fault)) throw error;
}
