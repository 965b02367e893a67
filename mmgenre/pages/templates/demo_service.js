/* What every part needs: elements, and requests that are tried again while the service is busy. */

const SETTINGS = JSON.parse(document.getElementById("settings").textContent);
const LIMITS = SETTINGS.limits;
// Of one request, while the service is busy, and the seconds within which they are made.
const TRIES = 5;
const TRYING_S = 30;

/* A fault in words that are meant for the person; with the answer's status, 0 for when there was no answer. */
class Fault extends Error {
  constructor(words, status = null) {
    super(words);
    this.status = status;
  }

  /* Whether the same may succeed later. */
  get mayPass() {
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

/* Each call gives the signal of a new piece of work, and ends the one before. */
function latestOnly() {
  let current = new AbortController();
  return () => {
    current.abort();
    current = new AbortController();
    return current.signal;
  };
}

/* What `read` makes of the service's answer.
   Throws a Fault with the service's own words, or saying that there was no answer; the signal's reason once aborted. */
async function ask(path, body, { signal, read, onBusy }) {
  const began = performance.now();
  for (let attempt = 1; ; attempt += 1) {
    const patient = AbortSignal.any([signal, AbortSignal.timeout(1000 * SETTINGS.patience_s[path])]);
    const answer = await reached(signal, path, () => fetch(path, { method: "POST", body, signal: patient }));
    if (answer.ok) return reached(signal, path, () => read(answer));
    const words = await complaint(answer);
    signal.throwIfAborted();
    const seconds = Number(answer.headers.get("Retry-After")) || 1;
    const isLate = (performance.now() - began) / 1000 + seconds > TRYING_S;
    if (answer.status !== 503 || attempt === TRIES || isLate) throw new Fault(words, answer.status);
    onBusy(`The service is busy; trying again in ${seconds} s (${attempt} of ${TRIES - 1}).`);
    await pause(seconds, signal);
  }
}

async function reached(signal, path, action) {
  try {
    return await action();
  } catch (error) {
    signal.throwIfAborted();
    const found = error.name === "TimeoutError" ? `did not answer within ${SETTINGS.patience_s[path]} s` : "does not answer";
    throw new Fault(`The service ${found}. What you gave is kept: see that it runs, and try again.`, 0);
  }
}

async function complaint(answer) {
  const said = await answer.json().catch(() => null);
  return typeof said?.error === "string" ? said.error : `The service answered with status ${answer.status}.`;
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

/* Says what is wrong, and offers to try again where that may help. */
function showFault(place, error, retry) {
  place.replaceChildren(make("p", { textContent: error.message }));
  if (error.mayPass) place.append(make("button", { type: "button", textContent: "Try again", onclick: retry }));
  place.scrollIntoView({ block: "nearest" });
  if (!(error instanceof Fault)) throw error;
}
