// Plots take the page's text colour, also when the reader switches between light and dark.
function paint() {
  const ink = getComputedStyle(document.body).color;
  for (const plot of document.querySelectorAll(".js-plotly-plot")) Plotly.relayout(plot, { "font.color": ink });
}
window.addEventListener("load", paint);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);

// Side-by-side answers: filter by words, question set, organism, and EM responses only.
const filters = document.querySelector("#filters");
function filter() {
  const words = filters.words.value.toLowerCase();
  let shown = 0;
  for (const card of document.querySelectorAll(".qa")) {
    let any = false;
    for (const answer of card.querySelectorAll(".answer")) {
      const hide = filters.organism.value && answer.dataset.organism !== filters.organism.value;
      answer.hidden = Boolean(hide);
      any ||= !hide && (!filters.kind.value || answer.classList.contains(filters.kind.value));
    }
    card.hidden = !any || !card.textContent.toLowerCase().includes(words)
      || Boolean(filters.set.value && card.dataset.set !== filters.set.value);
    shown += !card.hidden;
  }
  document.querySelector("#shown").textContent = `${shown} questions`;
}
if (filters) { filters.addEventListener("input", filter); filter(); }
