// Tables that sort, a list of cases that filters, and one case open at a time. Without scripts all cases are shown.
(() => {
  "use strict";
  const root = document.documentElement;
  root.classList.add("js");
  const all = (query, within = document) => Array.from(within.querySelectorAll(query));

  // ---- tables -------------------------------------------------------------------------------------------------
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    const given = cell.dataset.v;
    if (given === undefined) return cell.textContent.trim();
    return given === "" ? null : Number(given);
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  function sort(table, column, direction) {
    const body = table.tBodies[0];
    const rows = Array.from(body.rows).map((row, place) => ({ row, place, value: valueOf(row, column) }));
    rows.sort((a, b) => {
      if (a.value === null || b.value === null) return (a.value === null) - (b.value === null) || a.place - b.place;
      return direction * compare(a.value, b.value) || a.place - b.place; // what has no value stays last
    });
    body.append(...rows.map((one) => one.row));
    all("thead th", table).forEach((th, n) => {
      if (n === column) th.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else th.removeAttribute("aria-sort");
    });
  }
  for (const table of all("table.sortable")) {
    all("thead th", table).forEach((th, column) => {
      const button = document.createElement("button");
      button.type = "button";
      const head = document.createElement("span");
      head.className = "head";
      const sub = th.querySelector(".sub");
      head.append(...Array.from(th.childNodes).filter((node) => node !== sub));
      button.append(head, ...(sub ? [sub] : []));
      th.append(button);
      button.addEventListener("click", () => {
        const before = th.getAttribute("aria-sort");
        const first = th.dataset.first === "down" ? -1 : 1;
        sort(table, column, before === null ? first : before === "ascending" ? -1 : 1);
      });
    });
  }

  // ---- the list of cases --------------------------------------------------------------------------------------
  const table = document.getElementById("case-table");
  const rowsShown = () => (table ? Array.from(table.tBodies[0].rows).filter((row) => !row.hidden) : []);
  const tools = document.getElementById("case-tools");
  if (table && tools) {
    tools.hidden = false;
    const [name, state, structure] = ["find-name", "find-state", "find-structure"].map((id) => document.getElementById(id));
    const said = document.getElementById("case-values");
    const values = said ? JSON.parse(said.textContent) : null;
    const count = document.getElementById("case-count");
    const rows = Array.from(table.tBodies[0].rows);
    const cells = rows.map((row) => all("td[data-metric]", row).map((td) => ({ td, text: td.textContent, v: td.dataset.v })));
    const show = () => {
      const wanted = name.value.trim().toLowerCase();
      rows.forEach((row) => {
        const byName = row.cells[0].textContent.toLowerCase().includes(wanted);
        const byState = !state || state.value === "" || row.dataset.state.split(" ").includes(state.value);
        row.hidden = !(byName && byState && (!structure || structure.value === "" || has(row)));
      });
      const n = rowsShown().length;
      count.textContent = n === rows.length ? `${n} cases` : `${n} of ${rows.length} cases`;
    };
    const has = (row) => values.cases[row.dataset.case]?.[structure.value] !== undefined;
    const put = () => {
      rows.forEach((row, n) => {
        const own = structure.value === "" ? null : values.cases[row.dataset.case]?.[structure.value];
        cells[n].forEach(({ td, text, v }, k) => {
          td.textContent = structure.value === "" ? text : own ? own[k][0] : "-";
          const number = structure.value === "" ? v : own && own[k][1] !== null ? String(own[k][1]) : "";
          td.dataset.v = number;
        });
      });
      const sorted = table.querySelector("th[aria-sort]");
      if (sorted) sort(table, sorted.cellIndex, sorted.getAttribute("aria-sort") === "ascending" ? 1 : -1);
      show();
    };
    name.addEventListener("input", show);
    state?.addEventListener("change", show);
    structure?.addEventListener("change", put);
    show();
  }

  // ---- one case -----------------------------------------------------------------------------------------------
  const panels = all("article.case");
  let open = null;
  let seen = null;
  function step(by) {
    const ids = rowsShown().map((row) => row.dataset.case).filter((id) => document.getElementById(id));
    const at = ids.indexOf(open.id);
    const next = ids[at + by];
    if (next) location.hash = next;
  }
  function steps(panel) {
    const place = document.createElement("div");
    place.className = "steps";
    for (const [text, by] of [["Previous case", -1], ["Next case", 1]]) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "plain";
      button.textContent = text;
      button.addEventListener("click", () => step(by));
      place.append(button);
    }
    panel.querySelector("header").append(place);
  }
  function choose(panel, go) {
    if (open && open !== panel) {
      open.classList.remove("open");
      close(open);
    }
    open = panel;
    panel.classList.add("open");
    if (panels.length > 1 && !panel.querySelector(".steps")) steps(panel);
    all("tr.chosen").forEach((row) => row.classList.remove("chosen"));
    if (table) rowsOf(panel.id).forEach((row) => row.classList.add("chosen"));
    if (go) {
      panel.scrollIntoView({ block: "start" });
      panel.querySelector("h3").focus({ preventScroll: true });
    }
    draw(panel);
  }
  const rowsOf = (id) => Array.from(table.tBodies[0].rows).filter((row) => row.dataset.case === id);
  const viewerOf = (panel) => panel.querySelector(".viewer[data-scene]");
  function draw(panel) {
    const host = viewerOf(panel);
    if (!host || !window.medseg || !host.hidden) return;
    host.hidden = false;
    seen = new IntersectionObserver((entries) => {
      if (open !== panel || !entries.some((entry) => entry.isIntersecting)) return;
      seen.disconnect(); // drawn when it comes into sight: a report is often read without
      window.medseg.open(host, JSON.parse(document.getElementById(host.dataset.scene).textContent));
    });
    seen.observe(host);
  }
  function close(panel) {
    const host = viewerOf(panel);
    if (!host || host.hidden) return;
    seen?.disconnect();
    window.medseg.close(host);
    host.hidden = true;
  }
  const named = () => panels.find((panel) => "#" + panel.id === location.hash);
  window.addEventListener("hashchange", () => {
    const panel = named();
    if (panel) choose(panel, true);
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    const address = link && (link.getAttribute("href") || "");
    if (address && address === location.hash) {
      const panel = named(); // the address does not change, so that the browser tells nothing
      if (panel) choose(panel, true);
    }
  });
  if (panels.length) {
    const wanted = named();
    choose(wanted || panels[0], Boolean(wanted));
  }

  // ---- points of plots: one stop of the Tab key a plot, arrows from point to point ----------------------------------
  for (const plot of all("svg.plot")) {
    const points = all("a.pt", plot);
    if (!points.length) continue;
    points[0].setAttribute("tabindex", "0");
    plot.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const at = points.indexOf(document.activeElement);
      if (!by || at < 0) return;
      event.preventDefault();
      points[at].setAttribute("tabindex", "-1");
      const next = points[(at + by + points.length) % points.length];
      next.setAttribute("tabindex", "0");
      next.focus();
    });
  }

  // ---- print: what is folded is printed too -----------------------------------------------------------------------
  let unfolded = [];
  window.addEventListener("beforeprint", () => {
    unfolded = all("details.printed:not([open])");
    unfolded.forEach((one) => (one.open = true));
  });
  window.addEventListener("afterprint", () => unfolded.forEach((one) => (one.open = false)));
})();
