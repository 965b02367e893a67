/* One movie: the form, its poster, and the requests to /predict and /explain. */

const movieWork = latestOnly();
const posterWork = latestOnly();
// Element id of each input, by field name.
const FIELDS = { title: "title", plot: "plot", poster: "poster-file" };
let poster = null;

function startMovie() {
  const form = byId("movie-form");
  form.addEventListener("submit", event => {
    event.preventDefault();
    predictMovie();
  });
  form.addEventListener("keydown", event => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) predictMovie();
  });
  byId("poster-file").addEventListener("change", event => {
    const [file] = event.target.files;
    if (file) choosePoster(file, file.name);
    // Lets the user choose the same file again.
    event.target.value = "";
  });
  byId("poster-remove").addEventListener("click", () => {
    posterWork();
    keepPoster(null);
    byId("poster-file").focus();
  });
  document.addEventListener("paste", event => {
    const [file] = event.clipboardData?.files ?? [];
    // Some programs copy text together with an image of it.
    const isText = event.target.matches("input, textarea") && event.clipboardData.types.includes("text/plain");
    if (!file || isText || byId("movie").hidden) return;
    event.preventDefault();
    choosePoster(file, "pasted image");
  });
  document.querySelectorAll(".example").forEach(button => button.addEventListener("click", () => tryExample(button)));
}

async function tryExample(button) {
  const [picture, title, plot] = button.children;
  byId("title").value = title.textContent;
  byId("plot").value = SETTINGS.reads.includes("plot") ? plot.textContent : "";
  posterWork();
  keepPoster(null);
  if (SETTINGS.reads.includes("image")) await choosePoster(blobOf(picture.src), "example poster");
  predictMovie();
}

/* fetch() of a data: URL would need a weaker Content-Security-Policy. */
function blobOf(address) {
  const bytes = Uint8Array.from(atob(address.split(",")[1]), letter => letter.charCodeAt(0));
  return new Blob([bytes], { type: "image/jpeg" });
}

/* Sets a file as the poster; if it is invalid, shows why and keeps the previous poster. */
async function choosePoster(file, name) {
  const signal = posterWork();
  byId("poster-problem").textContent = "";
  const url = URL.createObjectURL(file);
  const fault = await posterFault(file, name, url);
  if (fault || signal.aborted) URL.revokeObjectURL(url);
  if (signal.aborted) return;
  if (fault) byId("poster-problem").textContent = fault;
  else keepPoster({ file, name, url });
}

async function posterFault(file, name, url) {
  if (file.size > LIMITS.poster_bytes) {
    return `${name} has ${size(file.size)}; the limit is ${size(LIMITS.poster_bytes)}. Choose a smaller image.`;
  }
  const head = String.fromCharCode(...new Uint8Array(await file.slice(0, 12).arrayBuffer()));
  if (!/^(\xff\xd8\xff|\x89PNG\r\n|RIFF....WEBP)/s.test(head)) {
    return `${name} is not a JPEG, PNG or WebP file. Choose another file.`;
  }
  const picture = new Image();
  const isPicture = await new Promise(resolve => {
    picture.onload = () => resolve(true);
    picture.onerror = () => resolve(false);
    picture.src = url;
  });
  if (!isPicture) return `${name} is damaged and cannot be opened. Choose another file.`;
  const { naturalWidth: width, naturalHeight: height } = picture;
  if (width * height <= LIMITS.poster_pixels) return "";
  const most = `${LIMITS.poster_pixels / 1e6} million`;
  return `${name} has ${width} × ${height} pixels; the limit is ${most}. Choose a smaller image.`;
}

function keepPoster(chosen) {
  if (poster) URL.revokeObjectURL(poster.url);
  poster = chosen;
  byId("poster-problem").textContent = "";
  for (const id of ["poster-picture", "poster-name", "poster-remove"]) byId(id).hidden = !chosen;
  byId("poster-picture").src = chosen ? chosen.url : "data:,";
  byId("poster-name").textContent = chosen ? `${chosen.name}, ${size(chosen.file.size)}` : "";
  document.querySelector("label[for=poster-file]").textContent = chosen ? "Choose another" : "Choose a poster";
}

/* The form to send; null if a field is missing or too long, which is shown next to the field. */
function movieForm() {
  const [title, plot] = ["title", "plot"].map(name => byId(name).value.trim());
  // A title is read with a plot, never on its own.
  const inputs = { plot, image: poster };
  const faults = { title: lengthFault("title", title), plot: lengthFault("plot", plot), poster: "" };
  if (!SETTINGS.reads.some(column => inputs[column])) Object.assign(faults, missingFault());
  const wrong = Object.keys(faults).filter(name => faults[name]);
  for (const [name, field] of Object.entries(FIELDS)) {
    byId(`${name}-problem`).textContent = faults[name];
    byId(field).setAttribute("aria-invalid", String(wrong.includes(name)));
  }
  if (wrong.length) {
    byId(FIELDS[wrong[0]]).focus();
    return null;
  }
  const body = new FormData();
  if (title) body.append("title", title);
  if (plot) body.append("plot", plot);
  if (poster) body.append("poster", poster.file, poster.name);
  return body;
}

function lengthFault(name, text) {
  const [length, most] = [Array.from(text).length, LIMITS.text_characters];
  if (length <= most) return "";
  return `The ${name} has ${number(length)} characters; the limit is ${number(most)}. Shorten it.`;
}

function missingFault() {
  const [plot, poster] = ["plot", "image"].map(column => SETTINGS.reads.includes(column));
  const start = "The model needs an input.";
  if (!plot) return { poster: `${start} Choose a poster.` };
  return { plot: `${start} ${poster ? "Enter a plot or choose a poster." : "Enter a plot."}` };
}

/* Shows the genres first, then the evidence, which takes longer. */
async function predictMovie() {
  const body = movieForm();
  if (!body) return;
  const signal = movieWork();
  const title = body.get("title");
  byId("result-title").replaceChildren(...(title ? ["Genres of “", make("bdi", {}, title), "”"] : ["Genres"]));
  byId("result-body").hidden = true;
  byId("result-empty").hidden = true;
  byId("movie-problem").replaceChildren();
  byId("reasons-problem").replaceChildren();
  try {
    const movie = await request("predict", body, signal, byId("movie-status"), "Predicting genres…");
    if (!movie.probabilities.length) throw new Fault(movie.detail ?? "The model reads none of these inputs.");
    showGenres(movie);
    await explainMovie(body, signal);
  } catch (error) {
    if (signal.aborted) return;
    byId("movie-status").textContent = "";
    showFault(byId("movie-problem"), error, predictMovie);
  } finally {
    if (!signal.aborted) setWorking(false);
  }
}

/* If this fails, the genres stay on the page. */
async function explainMovie(body, signal) {
  const status = byId("reasons-status");
  try {
    const explanation = await request("explain", body, signal, status, "Computing the evidence…");
    status.textContent = setExplanation(explanation) ? "" : "There is no evidence to show for this movie.";
  } catch (error) {
    signal.throwIfAborted();
    // Explanations may be turned off.
    status.textContent = error.status === 404 ? error.message : "";
    if (!status.textContent) showFault(byId("reasons-problem"), error, predictMovie);
  }
}

function request(path, body, signal, status, message) {
  setWorking(true);
  status.textContent = message;
  status.scrollIntoView({ block: "nearest" });
  const onBusy = busy => (status.textContent = busy);
  return post(path, body, { signal, onBusy, read: response => response.json() });
}

function setWorking(isWorking) {
  byId("movie-submit").textContent = isWorking ? "Predicting…" : "Predict genres";
  byId("result").setAttribute("aria-busy", String(isWorking));
}
