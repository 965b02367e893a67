/* A table of movies: a CSV file is sent to /tag, and the tagged file is shown and offered for download. */

const MAX_SHOWN_ROWS = 10;
const tableWork = latestOnly();
let table = null;
let taggedAddress = "";

function startTable() {
  byId("table-form").addEventListener("submit", event => {
    event.preventDefault();
    tagTable();
  });
  byId("table-file").addEventListener("change", event => {
    const [file] = event.target.files;
    if (file) chooseTable(file);
    event.target.value = "";
  });
}

/* Sets a file as the table, or shows why it cannot be used. */
async function chooseTable(file) {
  const signal = tableWork();
  setTagging(false);
  table = null;
  byId("tagged").hidden = true;
  byId("table-status").textContent = "";
  byId("table-problem").replaceChildren();
  byId("table-chosen").textContent = "";
  try {
    const summary = await readTable(file);
    signal.throwIfAborted();
    table = file;
    byId("table-chosen").textContent = summary;
  } catch (error) {
    if (!signal.aborted) showFault(byId("table-problem"), error);
  }
}

/* A one-line summary of a file. */
async function readTable(file) {
  if (file.size > LIMITS.table_bytes) {
    const most = size(LIMITS.table_bytes);
    throw new Fault(`${file.name} has ${size(file.size)}; the limit is ${most}. Use jobs/tag.py.`);
  }
  const [header, ...rows] = parsedCsv(await file.text());
  if (!rows.length) throw new Fault(`${file.name} has no rows after its header. Choose a CSV file of movies.`);
  if (rows.length > LIMITS.table_rows) {
    const most = number(LIMITS.table_rows);
    throw new Fault(`${file.name} has ${counted(rows)}; the limit is ${most}. Use jobs/tag.py.`);
  }
  return `${file.name}: ${counted(rows)}, columns ${listed(header)}.`;
}

async function tagTable() {
  const problem = byId("table-problem");
  if (!table) {
    // If the chosen file was rejected, its error stays.
    if (!problem.hasChildNodes()) showFault(problem, new Fault("Choose a CSV file first."));
    return;
  }
  const signal = tableWork();
  const status = byId("table-status");
  problem.replaceChildren();
  byId("tagged").hidden = true;
  try {
    setTagging(true);
    status.textContent = `Tagging ${table.name}…`;
    const body = new FormData();
    body.append("table", table, table.name);
    const onBusy = message => (status.textContent = message);
    const tagged = await post("tag", body, { signal, onBusy, read: response => response.blob() });
    const rows = parsedCsv(await tagged.text());
    signal.throwIfAborted();
    showTagged(tagged, `${table.name.replace(/\.csv$/i, "")}-tagged.csv`, rows);
  } catch (error) {
    if (signal.aborted) return;
    status.textContent = "";
    showFault(problem, error, tagTable);
  } finally {
    if (!signal.aborted) setTagging(false);
  }
}

function setTagging(isTagging) {
  byId("table-submit").textContent = isTagging ? "Tagging…" : "Tag table";
}

function showTagged(file, name, [header, ...rows]) {
  URL.revokeObjectURL(taggedAddress);
  taggedAddress = URL.createObjectURL(file);
  Object.assign(byId("download"), { href: taggedAddress, download: name, textContent: `Download ${name}` });
  byId("table-status").textContent = `${counted(rows)} tagged.`;
  const caption = rows.length > MAX_SHOWN_ROWS ? `The first ${MAX_SHOWN_ROWS} of ${counted(rows)}` : counted(rows);
  byId("tagged-rows").replaceChildren(tableOf(header, rows.slice(0, MAX_SHOWN_ROWS), caption));
  byId("tagged").hidden = false;
  byId("tagged").scrollIntoView({ block: "nearest" });
}

function counted(rows) {
  return `${number(rows.length)} ${rows.length === 1 ? "row" : "rows"}`;
}

/* Puts the genres first, because a phone shows only two columns. */
function tableOf(header, rows, caption) {
  // Appended to the file's own columns: genres, status, and a probability per genre.
  const numbersFrom = header.length - SETTINGS.genres.length;
  const genres = numbersFrom - 2;
  const genresFirst = cells => [cells[genres], ...cells.slice(0, genres), ...cells.slice(genres + 1)];
  const isText = column => column < numbersFrom;
  const headOf = (name, column) => make("th", { scope: "col", className: isText(column) ? lengthOf(name) : "" }, name);
  const cellOf = (text, column) => (isText(column) ? textCell(text) : numberCell(text));
  const spaced = row => row.with(genres, row[genres].replaceAll("|", ", "));
  return make(
    "table",
    {},
    make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...genresFirst(header).map(headOf))),
    make("tbody", {}, ...rows.map(row => make("tr", {}, ...genresFirst(spaced(row)).map(cellOf)))),
  );
}

function textCell(text) {
  return make("td", { className: lengthOf(text) }, make("div", { dir: "auto" }, text));
}

function numberCell(text) {
  return make("td", {}, text && Number(text).toFixed(3));
}

/* CSS class for the column width, by the number of characters. */
function lengthOf(text) {
  if (text.length <= 24) return "short";
  return text.length <= 60 ? "text" : "text long";
}

/* Rows of a CSV text (RFC 4180), without blank lines; the delimiter is the most frequent one in the first line. */
function parsedCsv(text) {
  const firstLine = text.replace(/"[^"]*"/g, "").split(/[\r\n]/, 1)[0];
  const countOf = mark => firstLine.split(mark).length;
  const [delimiter] = [",", ";", "\t"].sort((a, b) => countOf(b) - countOf(a));
  const cells = new RegExp(
    `(?:"([^"]*(?:""[^"]*)*)"|((?!")[^${delimiter}\\r\\n]*))(${delimiter}|\\r\\n?|\\n|$)`,
    "g",
  );
  const rows = [];
  let row = [];
  for (const [, quoted, plain, end] of text.replace(/^\uFEFF/, "").matchAll(cells)) {
    row.push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
    if (end === delimiter) continue;
    if (row.length > 1 || row[0]) rows.push(row);
    row = [];
  }
  return rows;
}
