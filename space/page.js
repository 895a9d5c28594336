// Chooses a face and a class within a result that is already on the page: nothing is asked of the server.
// `element` and `watch` come from gr.HTML.

const all = (selector) => Array.from(element.querySelectorAll(selector));
const panelOf = (face) => element.querySelector(`.panel[data-face="${face}"]`);

function chooseFace(face) {
  for (const button of all(".box, .thumb")) {
    button.setAttribute("aria-pressed", String(button.dataset.face === face));
  }
  for (const panel of all(".panel")) {
    panel.hidden = panel.dataset.face !== face;
  }
  const panel = panelOf(face);
  chooseClass(panel, panel.dataset.chosen ?? panel.dataset.top);
}

function chooseClass(panel, index) {
  panel.dataset.chosen = index;
  for (const bar of panel.querySelectorAll(".bar")) {
    const chosen = bar.dataset.class === index;
    bar.setAttribute("aria-checked", String(chosen));
    bar.tabIndex = chosen ? 0 : -1; // one stop for the tab key, then the arrows
    if (chosen) {
      show(panel, bar);
    }
  }
}

function show(panel, bar) {
  const stageHeat = element.querySelector(".stage-heat");
  panel.querySelector(".crop-heat").src = bar.dataset.heat;
  panel.querySelector(".chosen").textContent = bar.dataset.name;
  stageHeat.src = bar.dataset.heat;
  stageHeat.style.cssText = element.querySelector(
    `.box[data-face="${panel.dataset.face}"]`,
  ).style.cssText;
  const where = all(".panel").length > 1 ? ` in face ${Number(panel.dataset.face) + 1}` : "";
  element.querySelector(".caption").textContent =
    `Bright areas spoke for “${bar.dataset.name}”${where}.`;
}

element.addEventListener("click", (event) => {
  const bar = event.target.closest(".bar");
  const face = event.target.closest(".box, .thumb");
  if (bar) {
    chooseClass(bar.closest(".panel"), bar.dataset.class);
  } else if (face) {
    chooseFace(face.dataset.face);
  }
});

element.addEventListener("change", (event) => {
  if (event.target.matches(".heat-switch")) {
    element.querySelector(".result").classList.toggle("no-heat", !event.target.checked);
  }
});

element.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  const bar = event.target.closest(".bar");
  if (!bar || !step) {
    return;
  }
  event.preventDefault();
  const bars = Array.from(bar.parentElement.querySelectorAll(".bar"));
  const next = bars[(bars.indexOf(bar) + step + bars.length) % bars.length];
  chooseClass(bar.closest(".panel"), next.dataset.class);
  next.focus();
});

function start() {
  if (element.querySelector(".panel")) {
    chooseFace("0");
  }
}

watch("value", start);
start();
