// The page of trgen's REST service: asks /v1/models, streams /v1/chat/completions or /v1/completions, shows figures.

const find = (id) => document.getElementById(id);
const RETRY_MILLISECONDS = 3000;

let models = new Map();
let conversation = []; // messages as the service takes them
let images = []; // {name, url}: chosen, not sent yet
let running = null; // AbortController of the answer under way

const model = () => models.get(find("model").value);
const takesImages = () => Boolean(model()?.input_modalities?.includes("image"));
const say = (text) => { find("status").textContent = text; };

function element(name, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
}

async function request(path, options = {}) {
  const key = find("key").value.trim();
  const headers = { ...(options.body && { "Content-Type": "application/json" }), ...(key && { Authorization: `Bearer ${key}` }) };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const error = new Error(body?.error?.message ?? `The service answered ${response.status}.`);
  error.status = response.status;
  throw error;
}

async function loadModels() {
  try {
    const { data } = await (await request("v1/models")).json();
    if (!data.length) throw new Error("Triton serves no model that answers prompts.");
    const chosen = find("model").value;
    models = new Map(data.map((each) => [each.id, each]));
    find("model").replaceChildren(...data.map(({ id }) => element("option", { value: id, textContent: id })));
    if (models.has(chosen)) find("model").value = chosen;
    find("model").disabled = false;
    say("");
  } catch (error) {
    if (error.status === 401) {
      openSettings(true);
      say("This service wants an API key: write it into the settings.");
      find("key").focus();
    } else {
      say(`Waiting for the service: ${error.message}`);
      setTimeout(loadModels, RETRY_MILLISECONDS);
    }
  }
  update();
}

function update() {
  const asked = find("question").value.trim() !== "" || images.length > 0;
  find("send").hidden = running !== null;
  find("stop").hidden = running === null;
  find("send").disabled = !asked || models.size === 0;
  find("attach").hidden = !takesImages();
  find("question").placeholder = takesImages() ? "Ask something, or drop an image here" : "Ask something";
  find("images").hidden = images.length === 0;
  find("images").replaceChildren(...images.map((image, index) => {
    const remove = element("button", { type: "button", textContent: "×" });
    remove.setAttribute("aria-label", `Remove ${image.name}`);
    remove.addEventListener("click", () => { images.splice(index, 1); update(); find("question").focus(); });
    return element("li", {}, element("img", { src: image.url, alt: image.name }), remove);
  }));
}

function openSettings(open) {
  find("settings").hidden = !open;
  find("settings-button").setAttribute("aria-expanded", String(open));
}

async function addImages(files) {
  const chosen = [...files].filter((file) => file.type.startsWith("image/"));
  if (!chosen.length) return;
  if (!takesImages()) {
    say(`${find("model").value} takes no images.`);
    return;
  }
  for (const file of chosen) images.push({ name: file.name || "image", url: await readAsDataUrl(file) });
  say("");
  update();
  find("question").focus();
}

function readAsDataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(file);
  });
}

function show(kind, title, sent = []) {
  find("welcome").hidden = true;
  const text = element("div", { className: "text" });
  const article = element("article", { className: kind }, element("h2", { textContent: title }));
  if (sent.length) {
    const list = element("ul", { className: "images" });
    list.append(...sent.map((image) => element("li", {}, element("img", { src: image.url, alt: image.name }))));
    article.append(list);
  }
  article.append(text);
  find("transcript").append(article);
  return { article, text };
}

function userMessage(text, sent) {
  if (!sent.length) return { role: "user", content: text };
  const parts = sent.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  return { role: "user", content: text ? [...parts, { type: "text", text }] : parts };
}

// A model that takes no images would refuse a conversation that began with one that does.
function withoutImages(message) {
  if (typeof message.content === "string") return message;
  return { ...message, content: message.content.filter((part) => part.type !== "image_url") };
}

// Yields the JSON documents of a response of server-sent events.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

class Figures {
  constructor(article) {
    this.started = performance.now();
    this.first = null;
    this.last = null;
    this.tokens = 0;
    this.values = {};
    const list = element("dl", { className: "figures" });
    for (const [name, unit] of [["tokens", "tokens"], ["rate", "tokens/s"], ["first", "to first token"]]) {
      this.values[name] = element("dd", { className: name, textContent: "–" });
      list.append(element("div", {}, element("dt", { textContent: unit }), this.values[name]));
    }
    article.append(list);
  }

  piece() {
    this.last = performance.now();
    this.first ??= this.last;
    this.tokens += 1;
    this.show();
  }

  count(tokens) {
    this.tokens = tokens;
    this.show();
    // An answer that came in one piece leaves only the time since the question to divide by.
    if (this.first !== null && this.last === this.first) this.showRate(tokens, this.first - this.started);
  }

  showRate(tokens, milliseconds) {
    const rate = tokens / milliseconds * 1000;
    this.values.rate.textContent = rate.toFixed(rate < 10 ? 1 : 0);
  }

  show() {
    this.values.tokens.textContent = this.tokens;
    if (this.first === null) return;
    this.values.first.textContent = `${Math.round(this.first - this.started)} ms`;
    if (this.last > this.first) this.showRate(this.tokens - 1, this.last - this.first);
  }
}

function scrollIfAtEnd(change) {
  const area = find("scroll");
  const atEnd = area.scrollHeight - area.scrollTop - area.clientHeight < 60;
  change();
  if (atEnd) area.scrollTop = area.scrollHeight;
}

async function ask() {
  const question = find("question").value.trim();
  const sent = images;
  if (running || models.size === 0 || (!question && !sent.length)) return;
  const name = find("model").value;
  const chat = find("mode").value === "chat" || sent.length > 0;
  const message = userMessage(question, sent);
  const mine = conversation; // while the answer runs, somebody may begin a new one
  const before = takesImages() ? mine : mine.map(withoutImages);
  const body = {
    model: name,
    stream: true,
    stream_options: { include_usage: true },
    temperature: find("temperature").valueAsNumber || 0,
    max_tokens: find("max-tokens").valueAsNumber || 512,
    ...(chat ? { messages: [...before, message] } : { prompt: question }),
  };
  running = new AbortController();
  images = [];
  find("question").value = "";
  update();
  say(`${name} is answering …`);
  const asked = show("question", "You", sent);
  asked.text.textContent = question;
  const { article, text } = show("answer running", name);
  const figures = new Figures(article);
  find("transcript").setAttribute("aria-busy", "true"); // read out when it is whole
  find("scroll").scrollTop = find("scroll").scrollHeight;
  let answer = "";
  try {
    const path = chat ? "v1/chat/completions" : "v1/completions";
    const response = await request(path, { method: "POST", body: JSON.stringify(body), signal: running.signal });
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices[0];
      const piece = chat ? choice?.delta?.content : choice?.text;
      if (piece) {
        answer += piece;
        scrollIfAtEnd(() => { text.append(piece); figures.piece(); });
      }
      if (event.usage) figures.count(event.usage.completion_tokens);
    }
    say(`${name} has answered.`);
  } catch (error) {
    if (error.name === "AbortError") {
      say("Stopped.");
    } else {
      article.append(element("p", { className: "failure", textContent: error.message }));
      say("The answer has failed.");
      if (error.status === 401) openSettings(true);
    }
  }
  if (chat && answer) mine.push(message, { role: "assistant", content: answer });
  article.classList.remove("running");
  find("transcript").removeAttribute("aria-busy");
  running = null;
  update();
  find("question").focus();
}

find("composer").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
find("question").addEventListener("input", update);
find("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    ask();
  }
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") running?.abort(); });
find("stop").addEventListener("click", () => running?.abort());
find("clear").addEventListener("click", () => {
  running?.abort();
  conversation = [];
  find("transcript").replaceChildren(find("welcome"));
  find("welcome").hidden = false;
  say("");
  find("question").focus();
});
find("settings-button").addEventListener("click", () => openSettings(find("settings").hidden));
find("settings").addEventListener("submit", (event) => { event.preventDefault(); find("question").focus(); });
find("key").addEventListener("change", loadModels);
find("model").addEventListener("change", () => { if (!takesImages()) images = []; update(); });
find("file").addEventListener("change", (event) => { addImages(event.target.files); event.target.value = ""; });
document.addEventListener("paste", (event) => addImages(event.clipboardData.files));
document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  addImages(event.dataTransfer.files);
});

loadModels();
find("question").focus();
