// What a reader thinks of each case: kept in the page alone, until it is downloaded as a table.
(() => {
  "use strict";
  const all = (query, within = document) => Array.from(within.querySelectorAll(query));
  const fields = all("fieldset.rating");
  const tools = document.getElementById("rating-tools");
  if (!fields.length || !tools) return;
  const save = document.getElementById("rating-save");
  const count = document.getElementById("rating-count");
  const rows = new Map(all("#case-table tbody tr").map((row) => [row.dataset.case, row]));
  let unsaved = false;

  const pressed = (field) => field.querySelector("button[aria-pressed='true']")?.dataset.value || "";
  const comment = (field) => field.querySelector("input").value;
  const plain = (text) => text.replace(/\s+/g, " ").trim(); // no tab or line end may break the table

  function show(field) {
    const cell = rows.get(field.dataset.case)?.querySelector("td.rated");
    if (cell) cell.textContent = pressed(field) || (plain(comment(field)) ? "comment" : "");
    const rated = fields.filter((one) => pressed(one));
    const written = fields.filter((one) => pressed(one) || plain(comment(one)));
    save.disabled = !written.length;
    count.textContent = written.length
      ? `${rated.length} of ${fields.length} cases rated.${unsaved ? " Not yet downloaded: they are lost when the page is closed." : " Downloaded."}`
      : "Ratings are kept in this page alone, until you download them.";
  }

  for (const field of fields) {
    field.hidden = false;
    for (const button of all("button", field)) {
      button.addEventListener("click", () => {
        const again = button.getAttribute("aria-pressed") === "true"; // pressed once more it is taken back
        all("button", field).forEach((one) => one.setAttribute("aria-pressed", String(one === button && !again)));
        unsaved = true;
        show(field);
      });
    }
    field.querySelector("input").addEventListener("input", () => {
      unsaved = true;
      show(field);
    });
    show(field); // a browser may have kept what was written before the page was loaded anew
  }
  all(".rated").forEach((cell) => (cell.hidden = false));
  tools.hidden = false;

  save.addEventListener("click", () => {
    const lines = [["case", "rating", "comment"]];
    for (const field of fields) {
      const [rating, said] = [pressed(field), plain(comment(field))];
      if (rating || said) lines.push([field.dataset.name.replace(/[\t\r\n]/g, " "), rating, said]);
    }
    const text = lines.map((line) => line.join("\t") + "\n").join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/tab-separated-values" }));
    link.download = "ratings.tsv";
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    unsaved = false;
    show(fields[0]);
  });
  window.addEventListener("beforeunload", (event) => {
    if (unsaved) event.preventDefault();
  });
})();
