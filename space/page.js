// Chooses a face, a class, a method and a layer within a result that is already on the page. The maps of
// Grad-CAM at the default layer are there; the server is asked for others, and for deletion scores, once.
// `element`, `props`, `trigger` and `watch` come from gr.HTML.

const DEFAULT_METHOD = "grad_cam";
const LITTLE = 0.05; // of a class that has less than this, a deletion score says little
const LITTLE_MARKED = 0.25; // the same of a map that is 0 on all but this part of the crop
const PAUSE_MILLISECONDS = 250;

const all = (selector, within = element) => Array.from(within.querySelectorAll(selector));
const one = (selector, within = element) => within.querySelector(selector);

let face = 0;
let maps = new Map(); // face, method, layer -> pictures, one a class
let scores = new Map(); // face, method, layer, label -> {score, random, marked}
let asked = 0; // requests so far; answers up to `before` are about another picture
let before = 0;
let pause; // before a score is asked for

const panel = () => one(`.panel[data-face="${face}"]`);
const label = () => Number(panel().dataset.label);
const bar = () => one(`.bar[data-label="${label()}"]`, panel());
const method = () => one("input[name=method]:checked").value;
const layer = () => one("select.layer").value;
const usesLayer = () => method() !== "guided_backpropagation";
const verdictOf = (ofMethod, ofLayer) => JSON.parse(one(".why").dataset.verdicts)[ofMethod][ofLayer];
// Guided backpropagation looks at no layer: it has one answer for all.
const place = (choice) =>
  [choice.face, choice.method, choice.method === "guided_backpropagation" ? "" : choice.layer].join();
const current = () => ({ face, label: label(), method: method(), layer: layer() });

function start() {
  if (!one(".panel")) {
    return;
  }
  maps = new Map();
  scores = new Map();
  before = asked;
  const defaultLayer = one("select.layer option[selected]").value;
  for (const each of all(".panel")) {
    each.dataset.label = each.dataset.top;
    const key = place({ face: Number(each.dataset.face), method: DEFAULT_METHOD, layer: defaultLayer });
    maps.set(key, all(".bar", each).map((button) => button.dataset.heat));
  }
  face = 0;
  update();
}

// Shows what is known about the present choice and asks for the rest; for a score only once the visitor
// has stopped choosing, as it takes the server many passes.
function update() {
  show();
  if (!maps.has(place(current()))) {
    ask("maps");
  }
  clearTimeout(pause);
  if (!scores.has(`${place(current())},${label()}`)) {
    pause = setTimeout(() => ask("score"), PAUSE_MILLISECONDS);
  }
}

function ask(what) {
  asked += 1;
  trigger(what, { ...current(), ask: asked });
}

function receive(answer, keep) {
  if (answer && answer.ask > before && one(".panel")) {
    keep(answer);
    show();
  }
}

function show() {
  for (const button of all(".box, .thumb")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.face) === face));
  }
  for (const each of all(".panel")) {
    each.hidden = each !== panel();
  }
  for (const button of all(".choice", panel()).concat(all(".tile"))) {
    const chosen = Number(button.dataset.label) === label();
    button.setAttribute("aria-checked", String(chosen));
    button.tabIndex = chosen ? 0 : -1; // one stop for the tab key, then the arrows
  }
  for (const word of all(".chosen")) {
    word.textContent = bar().dataset.name;
  }
  one("select.layer").disabled = !usesLayer();
  showMaps(maps.get(place(current())));
  showScore(scores.get(`${place(current())},${label()}`));
  showVerdict();
}

function showMaps(pictures) {
  const stageHeat = one(".stage-heat");
  stageHeat.style.cssText = one(`.box[data-face="${face}"]`).style.cssText;
  one(".result").classList.toggle("waiting", !pictures);
  for (const tile of all(".tile")) {
    const same = one(`.bar[data-label="${tile.dataset.label}"]`, panel());
    one(".tile-crop", tile).src = one(".crops img", panel()).src;
    one(".percent", tile).textContent = one(".percent", same).textContent;
    if (pictures) {
      one(".tile-heat", tile).src = pictures[tile.dataset.label];
    }
  }
  if (pictures) {
    stageHeat.src = pictures[label()];
    one(".crop-heat", panel()).src = pictures[label()];
  }
}

function showScore(deletion) {
  const text = (value) => (value === undefined ? "…" : value.toFixed(2));
  one(".scores").setAttribute("aria-busy", String(!deletion));
  one(".score").textContent = text(deletion?.score);
  one(".score-of-random").textContent = text(deletion?.random);
  one(".why .fill").style.width = `${100 * (deletion?.score ?? 0)}%`;
  one(".why .of-random").style.width = `${100 * (deletion?.random ?? 0)}%`;
  one(".reading").textContent = deletion ? reading(deletion) : "Being measured …";
}

function reading({ score, random, marked }) {
  const name = bar().dataset.name;
  if (marked === 0) {
    return `This map is empty: here, nothing spoke for “${name}”, and the score says nothing.`;
  }
  if (Number(bar().dataset.value) < LITTLE) {
    return `The network sees little of “${name}” here, so this score says little.`;
  }
  if (marked < LITTLE_MARKED) {
    const part = marked < 0.01 ? "less than 1 %" : `${Math.round(100 * marked)} %`;
    return `The map marks only ${part} of the crop; the rest goes at random. The score says little.`;
  }
  return score < random
    ? "Lower than random maps: on this crop, the map marks what counted."
    : "No lower than random maps: do not trust this map on this crop.";
}

function showVerdict() {
  const words = { passed: "passes every check", failed: "fails a check", unchecked: "not checked" };
  const { state, sentence } = verdictOf(method(), layer());
  const badge = one(".badge");
  badge.dataset.state = state;
  badge.textContent = words[state];
  one(".method-name").textContent = `${methodName()}.`;
  one(".verdict").textContent = sentence;
  for (const input of all("input[name=method]")) {
    const failed = verdictOf(input.value, layer()).state === "failed";
    one(".flag", input.parentElement).textContent = failed ? "fails a check" : "";
  }
  for (const option of all("select.layer option")) {
    const failed = usesLayer() && verdictOf(method(), option.value).state === "failed";
    option.textContent = option.dataset.name + (failed ? " (fails a check)" : "");
  }
  const warning = state === "failed" ? " This method fails a check: see below." : "";
  one(".caption").textContent = caption() + warning;
}

function methodName() {
  const where = one("select.layer").selectedOptions[0].dataset.name.toLowerCase();
  return one("input[name=method]:checked").dataset.name + (usesLayer() ? `, ${where}` : "");
}

function caption() {
  const name = bar().dataset.name;
  const where = all(".panel").length > 1 ? ` in face ${face + 1}` : "";
  return {
    grad_cam: `Bright areas spoke for “${name}”${where}.`,
    guided_backpropagation: `Bright pixels: those on which “${name}” depends${where}.`,
    guided_grad_cam: `Bright pixels: details of the areas that spoke for “${name}”${where}.`,
  }[method()];
}

// The picture as it is shown, with its boxes, and a line that says what it shows.
async function download() {
  const picture = one(".stage .picture");
  const { naturalWidth: width, naturalHeight: height } = picture;
  const unit = Math.max(width, height) / 640;
  const line = Math.max(22 * unit, 18);
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = Math.round(height + line);
  const pen = canvas.getContext("2d");
  pen.drawImage(picture, 0, 0);
  const shown = one(".heat-switch").checked && !one(".result").classList.contains("waiting");
  const edges = (box) =>
    [["left", width], ["top", height], ["width", width], ["height", height]].map(
      ([side, whole]) => (Number.parseFloat(box.style[side]) / 100) * whole,
    );
  if (shown) {
    const heat = one(".stage-heat");
    await heat.decode();
    pen.drawImage(heat, ...edges(one(`.box[data-face="${face}"]`)));
  }
  pen.textBaseline = "middle";
  pen.font = `600 ${12 * unit}px system-ui, sans-serif`;
  for (const box of all(".box")) {
    const [left, top, wide, high] = edges(box);
    const chosen = Number(box.dataset.face) === face;
    pen.strokeStyle = chosen ? "#5eead4" : "#fff";
    pen.lineWidth = Math.max(1.5 * unit, 1);
    pen.strokeRect(left, top, wide, high);
    const number = String(Number(box.dataset.face) + 1);
    const tag = 16 * unit;
    const [x, y] = [Math.max(left, 0), top >= tag ? top - tag : Math.max(top, 0)];
    pen.fillStyle = pen.strokeStyle;
    pen.fillRect(x, y, pen.measureText(number).width + 8 * unit, tag);
    pen.fillStyle = "#10201d";
    pen.fillText(number, x + 4 * unit, y + tag / 2);
  }
  pen.fillStyle = "#fff";
  pen.fillRect(0, height, width, line);
  pen.fillStyle = "#1c1917";
  const said = `${face + 1}: ${bar().dataset.name} ${one(".percent", bar()).textContent}`;
  const parts = [said, ...(shown ? [methodName()] : []), one(".result").dataset.model];
  pen.fillText(parts.join("  ·  "), 8 * unit, height + line / 2, width - 16 * unit);
  const link = document.createElement("a");
  const name = ["emosynthnet", face + 1, bar().dataset.name, ...(shown ? [method()] : [])].join("-");
  link.download = `${name.replace(/[^\p{L}\p{N}_-]+/gu, "-")}.png`;
  link.href = URL.createObjectURL(await new Promise((done) => canvas.toBlob(done, "image/png")));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

element.addEventListener("click", (event) => {
  const choice = event.target.closest(".choice");
  const chosenFace = event.target.closest(".box, .thumb");
  if (choice) {
    panel().dataset.label = choice.dataset.label;
    update();
  } else if (chosenFace) {
    face = Number(chosenFace.dataset.face);
    update();
  } else if (event.target.closest(".download")) {
    download();
  }
});

element.addEventListener("change", (event) => {
  if (event.target.matches(".heat-switch")) {
    one(".result").classList.toggle("no-heat", !event.target.checked);
  } else if (event.target.matches("input[name=method], select.layer")) {
    update();
  }
});

element.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  const choice = event.target.closest(".choice");
  if (!choice || !step) {
    return;
  }
  event.preventDefault();
  const choices = all(".choice", choice.parentElement);
  const next = choices[(choices.indexOf(choice) + step + choices.length) % choices.length];
  panel().dataset.label = next.dataset.label;
  update();
  next.focus();
});

watch("value", start);
watch("maps", () => receive(props.maps, (answer) => maps.set(place(answer), answer.pictures)));
watch("score", () =>
  receive(props.score, (answer) => scores.set(`${place(answer)},${answer.label}`, answer.deletion)),
);
start();
