/* Tabs, file drops and startup. */

function startTabs() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const choose = chosen => tabs.forEach(tab => {
    const isChosen = tab === chosen;
    tab.setAttribute("aria-selected", String(isChosen));
    tab.tabIndex = isChosen ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !isChosen;
  });
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", event => {
      const to = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = tabs.at(to % tabs.length);
      choose(next);
      next.focus();
    });
  });
}

/* A file dropped anywhere goes to the active tab's file field and never replaces the page. */
function startDrops() {
  const holdsFile = event => event.dataTransfer.types.includes("Files");
  document.addEventListener("dragover", event => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    document.body.classList.add("over");
  });
  document.addEventListener("dragleave", event => {
    if (!event.relatedTarget) document.body.classList.remove("over");
  });
  document.addEventListener("drop", event => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    document.body.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (!file) return;
    if (byId("movie").hidden) chooseTable(file);
    else choosePoster(file, file.name);
  });
}

startTabs();
startDrops();
startMovie();
startTable();
