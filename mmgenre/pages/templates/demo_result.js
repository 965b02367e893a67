/* What the service said of a movie: its genres, and the words and regions that spoke for each. */

const MOST_WORDS = 8;
const STATUS_NOTES = {
  text_and_poster: "From the plot and the poster.",
  text_only: "From the plot alone.",
  poster_only: "From the poster alone.",
};
// Shares of the strongest word's score from which a word is marked, the strongest mark first.
const LEVELS = [0.75, 0.45, 0.2, 0.08];
const AGAINST = -0.25;
// Behind the last word that was read, from which on it is said that they were not.
const UNREAD_CHARACTERS = 80;
const shown = { genre: "", explanation: null };

function showGenres(movie) {
  const ranked = [...movie.probabilities].sort((one, other) => other.probability - one.probability);
  shown.explanation = null;
  byId("movie-status").textContent = movie.genres.length
    ? `Given: ${listed(movie.genres)}.`
    : "No genre reaches its threshold: none is given.";
  byId("result-note").textContent = [STATUS_NOTES[movie.status], movie.detail].filter(Boolean).join(" ");
  byId("genres").replaceChildren(...ranked.slice(0, 3).map(found => make("li", {}, genreButton(found))));
  byId("others").open = false;
  byId("others").querySelector("ul").replaceChildren(
    ...ranked.slice(3).map(found => make("li", {}, make("div", { className: "genre" }, ...genreParts(found)))),
  );
  byId("reasons").hidden = true;
  byId("result-body").hidden = false;
  chooseGenre(ranked[0].genre);
}

function genreButton(found) {
  const onclick = () => chooseGenre(found.genre);
  return make("button", { type: "button", className: "genre", value: found.genre, onclick }, ...genreParts(found));
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

/* A service may give only the most probable of the genres that reach their thresholds. */
function verdict(reaches, given, threshold) {
  if (given) return `given: reaches its threshold of ${threshold}`;
  if (reaches) return `not given, though it reaches its threshold of ${threshold}: others are more probable`;
  return `not given: below its threshold of ${threshold}`;
}

function chooseGenre(genre) {
  shown.genre = genre;
  for (const button of byId("genres").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.value === genre));
  }
  if (shown.explanation) showReasons(shown.explanation, genre);
}

/* From now on the three genres show their reasons; false: there are none to show. */
function takeExplanation(explanation) {
  const hasReasons = explanation.words.length > 0 || Object.keys(explanation.regions).length > 0;
  shown.explanation = hasReasons ? explanation : null;
  if (hasReasons) showReasons(explanation, shown.genre);
  return hasReasons;
}

function showReasons({ text, words, regions }, genre) {
  byId("reasons-title").textContent = `What spoke for ${genre}`;
  byId("words").hidden = !words.length;
  if (words.length) showWords(Array.from(text), words, genre);
  byId("regions").hidden = !regions[genre];
  if (regions[genre]) {
    byId("regions-picture").src = regions[genre];
    byId("regions-picture").alt = `The poster, on which the regions are lit up that spoke for ${genre}`;
  }
  byId("reasons").hidden = false;
}

/* `characters` are code points, which is what the service counts in. */
function showWords(characters, words, genre) {
  const scoreOf = word => word.scores[genre] ?? 0;
  const most = Math.max(...words.map(word => Math.abs(scoreOf(word)))) || 1;
  const spans = words.map(word => {
    const share = scoreOf(word) / most;
    return { ...word, share, level: levelOf(share), text: characters.slice(word.start, word.end).join("") };
  });
  byId("marked").replaceChildren(...markedNodes(characters, spans));
  byId("unread-note").hidden = !byId("marked").querySelector(".unread");
  const found = strongestWords(spans).flatMap(word => [", ", make("bdi", {}, word)]).slice(1);
  const said = found.length ? [`Strongest words for ${genre}: `, ...found, "."] : [`No word spoke for ${genre}.`];
  byId("strongest").replaceChildren(...said);
}

function levelOf(share) {
  const place = LEVELS.findIndex(least => share >= least);
  if (place >= 0) return `s${LEVELS.length - place}`;
  return share <= AGAINST ? "against" : "";
}

function strongestWords(spans) {
  const found = spans.filter(span => span.level && span.level !== "against");
  found.sort((one, other) => other.share - one.share);
  const unlike = new Map(found.map(span => [span.text.toLowerCase(), span.text]));
  return [...unlike.values()].slice(0, MOST_WORDS);
}

function markedNodes(characters, spans) {
  const nodes = [];
  let done = 0;
  for (const { start, end, level, text } of [...spans].sort((one, other) => one.start - other.start)) {
    if (!level || start < done) continue;
    nodes.push(characters.slice(done, start).join(""), make("mark", { className: level }, text));
    done = end;
  }
  // A long text is not read to its end; a few characters are no words to the model.
  const read = Math.max(...spans.map(span => span.end));
  const isCut = characters.length - read > UNREAD_CHARACTERS;
  const rest = isCut ? read : characters.length;
  nodes.push(characters.slice(done, rest).join(""));
  if (isCut) nodes.push(make("span", { className: "unread" }, characters.slice(rest).join("")));
  return nodes;
}
