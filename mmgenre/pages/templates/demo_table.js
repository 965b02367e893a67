/* A table of movies: a CSV file goes to the service, and comes back tagged. */

const FIRST_ROWS = 10;
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

/* Takes a file as the table, or says why not. */
async function chooseTable(file) {
  const signal = tableWork();
  setTagging(false);
  table = null;
  byId("tagged").hidden = true;
  byId("table-status").textContent = "";
  byId("table-problem").replaceChildren();
  byId("table-chosen").textContent = "";
  try {
    const found = await readTable(file);
    signal.throwIfAborted();
    table = file;
    byId("table-chosen").textContent = found;
  } catch (error) {
    if (!signal.aborted) showFault(byId("table-problem"), error);
  }
}

/* What there is in a file, in a line. */
async function readTable(file) {
  if (file.size > LIMITS.table_bytes) {
    const most = size(LIMITS.table_bytes);
    throw new Fault(`${file.name} has ${size(file.size)}; at most ${most} are taken. Tag it with jobs/tag.py.`);
  }
  const [header, ...rows] = parsedCsv(await file.text());
  if (!rows.length) throw new Fault(`${file.name} has no rows below its header. Choose a CSV file of movies.`);
  if (rows.length > LIMITS.table_rows) {
    const most = number(LIMITS.table_rows);
    throw new Fault(`${file.name} has ${counted(rows)}; at most ${most} are taken. Tag it with jobs/tag.py.`);
  }
  return `${file.name}: ${counted(rows)} with ${listed(header)}.`;
}

async function tagTable() {
  const problem = byId("table-problem");
  if (!table) {
    // What was wrong with the file that was chosen stays there to be read.
    if (!problem.hasChildNodes()) showFault(problem, new Fault("There is no table yet. Choose a CSV file."));
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
    const onBusy = words => (status.textContent = words);
    const tagged = await ask("tag", body, { signal, onBusy, read: answer => answer.blob() });
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
  byId("table-submit").textContent = isTagging ? "Tagging…" : "Tag the table";
}

function showTagged(file, name, [header, ...rows]) {
  URL.revokeObjectURL(taggedAddress);
  taggedAddress = URL.createObjectURL(file);
  Object.assign(byId("download"), { href: taggedAddress, download: name, textContent: `Download ${name}` });
  byId("table-status").textContent = `${counted(rows)} tagged.`;
  const words = rows.length > FIRST_ROWS ? `The first ${FIRST_ROWS} of ${counted(rows)}` : counted(rows);
  byId("tagged-rows").replaceChildren(tableOf(header, rows.slice(0, FIRST_ROWS), words));
  byId("tagged").hidden = false;
  byId("tagged").scrollIntoView({ block: "nearest" });
}

function counted(rows) {
  return `${number(rows.length)} ${rows.length === 1 ? "row" : "rows"}`;
}

/* The genres come first: they are what one looks for, and a phone shows two columns. */
function tableOf(header, rows, caption) {
  // Behind the columns of the file: genres, status, and a probability for each genre.
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

/* How wide a column a text wants: in characters, more or less. */
function lengthOf(text) {
  if (text.length <= 24) return "short";
  return text.length <= 60 ? "text" : "text long";
}

/* Rows of a CSV text, RFC 4180, with whichever delimiter its first line has most of; blank lines are none. */
function parsedCsv(text) {
  const firstLine = text.replace(/"[^"]*"/g, "").split(/[\r\n]/, 1)[0];
  const countOf = mark => firstLine.split(mark).length;
  const [delimiter] = [",", ";", "\t"].sort((one, other) => countOf(other) - countOf(one));
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
