/* The result for one movie: its genres, and the words and poster regions that support each. */

const MOST_WORDS = 8;
const STATUS_NOTES = {
  text_and_poster: "From the plot and the poster.",
  text_only: "From the plot only.",
  poster_only: "From the poster only.",
};
// Minimum score of each mark, strongest first, relative to the strongest word.
const LEVELS = [0.75, 0.45, 0.2, 0.08];
const AGAINST = -0.25;
// Minimum number of unread characters at the end of a plot to show them in grey.
const UNREAD_CHARACTERS = 80;
const shown = { genre: "", explanation: null };

function showGenres(movie) {
  const ranked = [...movie.probabilities].sort((a, b) => b.probability - a.probability);
  shown.explanation = null;
  byId("movie-status").textContent = movie.genres.length
    ? `Predicted: ${listed(movie.genres)}.`
    : "No genre reaches its threshold.";
  byId("result-note").textContent = [STATUS_NOTES[movie.status], movie.detail].filter(Boolean).join(" ");
  byId("genres").replaceChildren(...ranked.slice(0, 3).map(genre => make("li", {}, genreButton(genre))));
  byId("others").open = false;
  byId("others").querySelector("ul").replaceChildren(
    ...ranked.slice(3).map(genre => make("li", {}, make("div", { className: "genre" }, ...genreParts(genre)))),
  );
  byId("reasons").hidden = true;
  byId("result-body").hidden = false;
  chooseGenre(ranked[0].genre);
}

function genreButton(prediction) {
  const { genre } = prediction;
  const properties = { type: "button", className: "genre", value: genre, onclick: () => chooseGenre(genre) };
  return make("button", properties, ...genreParts(prediction));
}

function genreParts({ genre, probability, threshold, given }) {
  const fill = make("span", { className: "fill" });
  const mark = make("span", { className: "mark" });
  fill.style.width = `${100 * probability}%`;
  mark.style.left = `${100 * threshold}%`;
  return [
    make("span", { className: "name" }, genre, " "),
    make("span", { className: "number" }, percent(probability), " "),
    make("span", { className: given ? "bar given" : "bar" }, fill, mark),
    make("span", { className: "verdict" }, verdict(probability >= threshold, given, percent(threshold))),
  ];
}

/* With top_k, a genre can reach its threshold and not be predicted. */
function verdict(reaches, given, threshold) {
  if (given) return `predicted: reaches its threshold of ${threshold}`;
  if (reaches) return `not predicted: reaches its threshold of ${threshold}, but others are more probable`;
  return `not predicted: below its threshold of ${threshold}`;
}

function chooseGenre(genre) {
  shown.genre = genre;
  for (const button of byId("genres").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.value === genre));
  }
  if (shown.explanation) showEvidence(shown.explanation, genre);
}

/* Enables the evidence of the three genres; returns false if there is none. */
function setExplanation(explanation) {
  const hasEvidence = explanation.words.length > 0 || Object.keys(explanation.regions).length > 0;
  shown.explanation = hasEvidence ? explanation : null;
  if (hasEvidence) showEvidence(explanation, shown.genre);
  return hasEvidence;
}

function showEvidence({ text, words, regions }, genre) {
  byId("reasons-title").textContent = `Evidence for ${genre}`;
  byId("words").hidden = !words.length;
  if (words.length) showWords(Array.from(text), words, genre);
  byId("regions").hidden = !regions[genre];
  if (regions[genre]) {
    byId("regions-picture").src = regions[genre];
    byId("regions-picture").alt = `The poster with the regions that support ${genre} lit up`;
  }
  byId("reasons").hidden = false;
}

/* `characters` are code points, like the offsets of the service. */
function showWords(characters, words, genre) {
  const scoreOf = word => word.scores[genre] ?? 0;
  const most = Math.max(...words.map(word => Math.abs(scoreOf(word)))) || 1;
  const spans = words.map(word => {
    const share = scoreOf(word) / most;
    return { ...word, share, level: levelOf(share), text: characters.slice(word.start, word.end).join("") };
  });
  byId("marked").replaceChildren(...markedNodes(characters, spans));
  byId("unread-note").hidden = !byId("marked").querySelector(".unread");
  const strongest = strongestWords(spans).flatMap(word => [", ", make("bdi", {}, word)]).slice(1);
  const summary = [`Strongest words for ${genre}: `, ...strongest, "."];
  byId("strongest").replaceChildren(...(strongest.length ? summary : [`No word supports ${genre}.`]));
}

function levelOf(share) {
  const place = LEVELS.findIndex(least => share >= least);
  if (place >= 0) return `s${LEVELS.length - place}`;
  return share <= AGAINST ? "against" : "";
}

function strongestWords(spans) {
  const supporting = spans.filter(span => span.level && span.level !== "against");
  supporting.sort((a, b) => b.share - a.share);
  const distinct = new Map(supporting.map(span => [span.text.toLowerCase(), span.text]));
  return [...distinct.values()].slice(0, MOST_WORDS);
}

function markedNodes(characters, spans) {
  const nodes = [];
  let done = 0;
  for (const { start, end, level, text } of [...spans].sort((a, b) => a.start - b.start)) {
    if (!level || start < done) continue;
    nodes.push(characters.slice(done, start).join(""), make("mark", { className: level }, text));
    done = end;
  }
  // Models truncate long texts. A few characters at the end may just not be words.
  const read = Math.max(...spans.map(span => span.end));
  const isCut = characters.length - read > UNREAD_CHARACTERS;
  const rest = isCut ? read : characters.length;
  nodes.push(characters.slice(done, rest).join(""));
  if (isCut) nodes.push(make("span", { className: "unread" }, characters.slice(rest).join("")));
  return nodes;
}
