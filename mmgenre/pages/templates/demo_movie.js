/* One movie: the form, its poster, and the two questions that are asked about it. */

const movieWork = latestOnly();
const posterWork = latestOnly();
// What a person fills in, by name: where that is done.
const FIELDS = { title: "title", plot: "plot", poster: "poster-file" };
let poster = null;

function startMovie() {
  const form = byId("movie-form");
  form.addEventListener("submit", event => {
    event.preventDefault();
    labelMovie();
  });
  form.addEventListener("keydown", event => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) labelMovie();
  });
  byId("poster-file").addEventListener("change", event => {
    const [file] = event.target.files;
    if (file) choosePoster(file, file.name);
    // So that the same file can be chosen again.
    event.target.value = "";
  });
  byId("poster-remove").addEventListener("click", () => {
    posterWork();
    keepPoster(null);
    byId("poster-file").focus();
  });
  document.addEventListener("paste", event => {
    const [file] = event.clipboardData?.files ?? [];
    // Some programs put a picture of the text beside it.
    const isText = event.target.matches("input, textarea") && event.clipboardData.types.includes("text/plain");
    if (!file || isText || byId("movie").hidden) return;
    event.preventDefault();
    choosePoster(file, "pasted picture");
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
  labelMovie();
}

/* fetch() of a data address would need the page's policy to allow more than the service. */
function blobOf(address) {
  const bytes = Uint8Array.from(atob(address.split(",")[1]), letter => letter.charCodeAt(0));
  return new Blob([bytes], { type: "image/jpeg" });
}

/* Takes a file as the poster, or says why not; the poster before it stays then. */
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
    return `${name} has ${size(file.size)}; at most ${size(LIMITS.poster_bytes)} are taken. Choose a smaller picture.`;
  }
  const head = String.fromCharCode(...new Uint8Array(await file.slice(0, 12).arrayBuffer()));
  if (!/^(\xff\xd8\xff|\x89PNG\r\n|RIFF....WEBP)/s.test(head)) {
    return `${name} is no picture that is read here. Choose a JPEG, PNG or WebP file.`;
  }
  const picture = new Image();
  const isPicture = await new Promise(resolve => {
    picture.onload = () => resolve(true);
    picture.onerror = () => resolve(false);
    picture.src = url;
  });
  if (!isPicture) return `${name} is damaged: it could not be opened as a picture. Choose another file.`;
  const { naturalWidth: width, naturalHeight: height } = picture;
  if (width * height <= LIMITS.poster_pixels) return "";
  const most = `${LIMITS.poster_pixels / 1e6} million`;
  return `${name} has ${width} × ${height} pixels; at most ${most} are taken. Choose a smaller picture.`;
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

/* The movie as the service takes it; null: something is missing or too long, which is said beside it. */
function movieGiven() {
  const [title, plot] = ["title", "plot"].map(name => byId(name).value.trim());
  // A title is read with a plot, never alone.
  const given = { plot, image: poster };
  const faults = { title: lengthFault("title", title), plot: lengthFault("plot", plot), poster: "" };
  if (!SETTINGS.reads.some(column => given[column])) Object.assign(faults, nothingFault());
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
  return `The ${name} has ${number(length)} characters; at most ${number(most)} are taken. Shorten it.`;
}

function nothingFault() {
  const [plot, poster] = ["plot", "image"].map(column => SETTINGS.reads.includes(column));
  const start = "There is nothing to read yet.";
  if (!plot) return { poster: `${start} Choose a poster.` };
  return { plot: `${start} ${poster ? "Paste a plot, or choose a poster." : "Paste a plot."}` };
}

/* Shows the genres as soon as they are known; the reasons, which take longer, follow. */
async function labelMovie() {
  const body = movieGiven();
  if (!body) return;
  const signal = movieWork();
  const title = body.get("title");
  byId("result-title").replaceChildren(...(title ? ["Genres of “", make("bdi", {}, title), "”"] : ["Its genres"]));
  byId("result-body").hidden = true;
  byId("result-empty").hidden = true;
  byId("movie-problem").replaceChildren();
  byId("reasons-problem").replaceChildren();
  try {
    const movie = await askAbout("predict", body, signal, byId("movie-status"), "Reading the movie…");
    if (!movie.probabilities.length) throw new Fault(movie.detail ?? "The model can read nothing of this movie.");
    showGenres(movie);
    await findReasons(body, signal);
  } catch (error) {
    if (signal.aborted) return;
    byId("movie-status").textContent = "";
    showFault(byId("movie-problem"), error, labelMovie);
  } finally {
    if (!signal.aborted) setWorking(false);
  }
}

/* The genres stand, whatever becomes of their reasons. */
async function findReasons(body, signal) {
  const status = byId("reasons-status");
  try {
    const explanation = await askAbout("explain", body, signal, status, "Looking for what spoke for each…");
    status.textContent = takeExplanation(explanation) ? "" : "There are no reasons to show for this movie.";
  } catch (error) {
    signal.throwIfAborted();
    // Reasons may be switched off.
    status.textContent = error.status === 404 ? error.message : "";
    if (!status.textContent) showFault(byId("reasons-problem"), error, labelMovie);
  }
}

function askAbout(path, body, signal, status, words) {
  setWorking(true);
  status.textContent = words;
  status.scrollIntoView({ block: "nearest" });
  const onBusy = busy => (status.textContent = busy);
  return ask(path, body, { signal, onBusy, read: answer => answer.json() });
}

function setWorking(isWorking) {
  byId("movie-submit").textContent = isWorking ? "Reading…" : "Label it";
  byId("result").setAttribute("aria-busy", String(isWorking));
}
