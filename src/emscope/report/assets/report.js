// Plots take the page's text colour, also when the reader switches between light and dark.
function paint() {
  const ink = getComputedStyle(document.body).color;
  for (const plot of document.querySelectorAll(".js-plotly-plot")) Plotly.relayout(plot, { "font.color": ink });
}
window.addEventListener("load", paint);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);

// Every figure can be taken away: as a picture, and as the numbers behind it.
function csv(plot) {
  const quote = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
  const lines = [["series", "x", "y", "low", "high"]];
  for (const [number, trace] of plot.data.entries()) {
    const name = trace.name ?? `series ${number + 1}`;
    const xs = [...(trace.x ?? [])], ys = [...(trace.y ?? [])];
    if (trace.z) { trace.z.forEach((row, i) => [...row].forEach((z, j) => lines.push([`${name} ${ys[i] ?? i}`, xs[j] ?? j, z, "", ""]))); continue; }
    const arm = (key, i) => trace.error_y?.[key]?.[i];
    for (let i = 0; i < Math.max(xs.length, ys.length); i++) {
      const up = arm("array", i), down = arm("arrayminus", i) ?? up;
      lines.push([name, xs[i], ys[i], down == null ? "" : ys[i] - down, up == null ? "" : ys[i] + up]);
    }
  }
  return lines.map((line) => line.map(quote).join(",")).join("\n") + "\n";
}
function titleOf(plot) {
  for (let node = plot; node && node !== document.body; node = node.parentElement) {
    for (let before = node.previousElementSibling; before; before = before.previousElementSibling)
      if (/^H[1-3]$/.test(before.tagName)) return before.textContent.trim().replace(/[^\w]+/g, "-").toLowerCase();
  }
  return "figure";
}
function offer() {
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {
    const bar = document.createElement("p");
    bar.className = "take soft";
    for (const [label, act] of [
      ["SVG", () => Plotly.downloadImage(plot, { format: "svg", filename: titleOf(plot) })],
      ["CSV", () => {
        const link = document.createElement("a");
        link.href = URL.createObjectURL(new Blob([csv(plot)], { type: "text/csv" }));
        link.download = `${titleOf(plot)}.csv`;
        link.click();
      }],
    ]) {
      const button = document.createElement("button");
      button.type = "button"; button.textContent = label; button.title = `Save this figure as ${label}`;
      button.addEventListener("click", act);
      bar.append(button);
    }
    plot.parentElement.after(bar);  // the parent has the height of the plot alone
  }
}
window.addEventListener("load", offer);

// Side-by-side answers: filtered by words, question set, organism and kind, a page of them at a time.
const filters = document.querySelector("#filters"), PAGE = 10;
let page = 0;
function filter() {
  const words = filters.words.value.toLowerCase(), matching = [];
  for (const card of document.querySelectorAll("#answers ~ .qa")) {
    let any = false;
    for (const answer of card.querySelectorAll(".answer")) {
      const hide = filters.organism.value && answer.dataset.organism !== filters.organism.value;
      answer.hidden = Boolean(hide);
      any ||= !hide && (!filters.kind.value || answer.classList.contains(filters.kind.value));
    }
    card.hidden = true;
    if (any && card.textContent.toLowerCase().includes(words) && (!filters.set.value || card.dataset.set === filters.set.value))
      matching.push(card);
  }
  const pages = Math.max(1, Math.ceil(matching.length / PAGE));
  page = Math.min(Math.max(page, 0), pages - 1);
  for (const card of matching.slice(page * PAGE, (page + 1) * PAGE)) card.hidden = false;
  document.querySelector("#shown").textContent = `${matching.length} questions, page ${page + 1} of ${pages}`;
  document.querySelector("#earlier").disabled = page === 0;
  document.querySelector("#later").disabled = page === pages - 1;
}
if (filters) {
  filters.addEventListener("input", () => { page = 0; filter(); });
  document.querySelector("#earlier").addEventListener("click", () => { page--; filter(); });
  document.querySelector("#later").addEventListener("click", () => { page++; filter(); });
  filter();
}
