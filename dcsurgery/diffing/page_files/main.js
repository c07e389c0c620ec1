"use strict";
// Put the page together: one state, and what buttons, keys and links do to it.
DCS.Page = class {
  constructor() {
    const data = JSON.parse(document.getElementById("data").textContent);
    this.tree = new DCS.Tree(data);
    this.layout = new DCS.Layout(this.tree);
    this.view = { x: 0, y: 0, scale: 1 };
    this.split = false;
    this.chosen = null;
    this.hits = new Set();
    this.hidden = new Set();
    this.on = {
      pan: (dx, dy) => { this.view.x += dx; this.view.y += dy; this.move(); },
      zoom: (factor, x, y) => this.zoom(factor, x, y),
      choose: (node, side, toggles) => this.choose(node, side, toggles),
      toggle: (node, side) => this.toggle(node, side),
      jump: (node) => this.jump(node),
      found: (hits) => { this.hits = hits; this.mark(); this.say(`${hits.size} found`); },
      filter: (hidden) => { this.hidden = hidden; this.mark(); },
    };
    this.panels = new DCS.Panels(this.tree, this.on);
    this.tree.openChanges();
    this.build();
    this.fit();
    this.listen();
    this.follow();
    document.documentElement.dataset.ready = "true";
  }

  build() {
    this.scenes = (this.split ? [1, 2] : [0]).map((side) => new DCS.Scene(this.tree, this.layout, side, this.view, this.on));
    document.getElementById("panes").replaceChildren(...this.scenes.map((scene) => scene.pane));
    this.draw();
  }

  draw() {
    for (const scene of this.scenes) scene.draw();
    this.mark();
  }

  move() {
    for (const scene of this.scenes) scene.move();
  }

  // Dim what is filtered out, ring what was found, and let exactly one box of each pane be reached by Tab.
  mark() {
    for (const scene of this.scenes) {
      let first = null;
      for (const [index, element] of scene.elements) {
        const node = this.tree.nodes[index];
        const state = this.tree.state(node);
        element.classList.toggle("dim", this.hidden.has(state) && !(state === "same" && node.holds));
        element.classList.toggle("hit", this.hits.has(index));
        const here = this.chosen === node;
        element.classList.toggle("chosen", here);
        element.setAttribute("tabindex", here ? "0" : "-1");
        if (here || first === null) first = first && !here ? first : element;
      }
      if (first) first.setAttribute("tabindex", "0");
    }
  }

  size() {
    const { width, height } = this.layout.of(this.tree.root);
    const box = this.scenes[0].svg.getBoundingClientRect();
    return { width, height, box };
  }

  fit() {
    const { width, height, box } = this.size();
    const scale = Math.min(box.width / width, box.height / height, 1.4);
    // A tall picture is read from its top: never smaller than can be read.
    this.view.scale = Math.max(scale, Math.min(0.7, box.width / width) || 0.7, 0.1);
    this.view.x = Math.max((box.width - width * this.view.scale) / 2, 0);
    this.view.y = 0;
    this.move();
  }

  zoom(factor, x, y) {
    const scale = Math.min(Math.max(this.view.scale * factor, 0.05), 5);
    const real = scale / this.view.scale;
    this.view.x = x - (x - this.view.x) * real;
    this.view.y = y - (y - this.view.y) * real;
    this.view.scale = scale;
    this.move();
  }

  zoomCentre(factor) {
    const { box } = this.size();
    this.zoom(factor, box.width / 2, box.height / 2);
  }

  place(node) {
    let x = 0, y = 0;
    for (let below = node, above = node.parent; above; below = above, above = above.parent) {
      const place = this.layout.of(above).places.get(below);
      x += place.x;
      y += place.y;
    }
    const own = node.parent ? this.layout.of(node.parent).places.get(node) : { width: 0, height: 0 };
    return { x, y, width: own.width, height: Math.min(own.height, 60) };
  }

  centre(node) {
    const place = this.place(node);
    const { box } = this.size();
    this.view.scale = Math.max(this.view.scale, 0.6);
    this.view.x = box.width / 2 - (place.x + place.width / 2) * this.view.scale;
    this.view.y = box.height / 2 - (place.y + place.height / 2) * this.view.scale;
    this.move();
  }

  choose(node, side = this.side(node)) {
    this.chosen = node;
    this.mark();
    this.panels.details(node);
    history.replaceState(null, "", DCS.link(node));
    const element = this.element(node, side);
    if (element) element.focus({ preventScroll: true });
  }

  side(node) {
    if (!this.split) return 0;
    return node.s & 1 ? 1 : 2;
  }

  element(node, side = this.side(node)) {
    const scene = this.scenes.find((candidate) => candidate.side === side) ?? this.scenes[0];
    return scene.elements.get(node.index) ?? this.scenes.map((other) => other.elements.get(node.index)).find(Boolean);
  }

  toggle(node, side = this.side(node)) {
    const before = this.place(node);
    if (!this.tree.toggle(node)) return;
    this.draw();
    const after = this.place(node);  // what was opened stays where it was seen
    this.view.x += (before.x - after.x) * this.view.scale;
    this.view.y += (before.y - after.y) * this.view.scale;
    this.move();
    this.choose(node, side);
    this.say(`${this.tree.label(node, 0)} ${this.tree.isOpen(node) ? "opened" : "closed"}`);
  }

  jump(node) {
    this.tree.reveal(node);
    this.draw();
    if (node.parent) this.centre(node);
    this.choose(node);
    this.say(this.tree.label(node, 0));
  }

  step(direction) {
    const changes = this.tree.data.changes.filter((change) => change.nodes.length && !this.hidden.has(change.state));
    if (!changes.length) return;
    const now = this.chosen && this.chosen.change ? changes.indexOf(this.chosen.change) : direction > 0 ? -1 : 0;
    const next = changes[(now + direction + changes.length) % changes.length];
    this.jump(this.tree.nodes[next.nodes[0]]);
  }

  // Along the arrows that are drawn: to what gives to a box, what takes from it, or stands beside it.
  go(key) {
    const node = this.chosen ?? [...this.tree.visible()].find((candidate) => this.element(candidate));
    if (!node || !node.parent) return;
    const level = [...node.parent.level.values()];
    const near = {
      ArrowUp: () => level.filter((arrow) => arrow.to === node).map((arrow) => arrow.from)[0] ?? (node.parent.parent ? node.parent : null),
      ArrowDown: () => (this.tree.isOpen(node) ? node.children[0] : level.filter((arrow) => arrow.from === node).map((arrow) => arrow.to)[0]),
      ArrowLeft: () => node.parent.children[node.parent.children.indexOf(node) - 1],
      ArrowRight: () => node.parent.children[node.parent.children.indexOf(node) + 1],
    }[key]();
    if (!near) return;
    this.choose(near);
    this.keepInView(near);
  }

  keepInView(node) {
    const place = this.place(node);
    const { box } = this.size();
    const x = place.x * this.view.scale + this.view.x, y = place.y * this.view.scale + this.view.y;
    if (x < 0 || y < 0 || x + 60 > box.width || y + 30 > box.height) this.centre(node);
  }

  say(text) {
    document.getElementById("said").textContent = text;
  }

  follow() {
    const match = /^#node=(.+)$/.exec(location.hash);
    if (!match) return;
    const id = decodeURIComponent(match[1]);
    const node = this.tree.nodes.find((candidate) => candidate.i === id);
    if (node) this.jump(node);
    else this.say(`no node ${id}`);
  }

  setSplit(split) {
    this.split = split;
    const button = document.getElementById("view");
    button.setAttribute("aria-pressed", String(split));
    this.build();
    this.fit();
    if (this.chosen) this.keepInView(this.chosen);
  }

  listen() {
    const click = (id, does) => document.getElementById(id).addEventListener("click", does);
    click("view", () => this.setSplit(!this.split));
    click("fit", () => this.fit());
    click("larger", () => this.zoomCentre(1.25));
    click("smaller", () => this.zoomCentre(0.8));
    click("open", () => { this.tree.openChanges(); this.draw(); this.fit(); });
    click("close", () => { this.tree.closeAll(); this.draw(); this.fit(); });
    click("previous", () => this.step(-1));
    click("next", () => this.step(1));
    click("keys", () => this.help());
    window.addEventListener("hashchange", () => this.follow());
    window.addEventListener("beforeprint", () => this.fit());
    document.addEventListener("keydown", (event) => this.key(event));
  }

  help() {
    const panel = document.getElementById("help");
    panel.hidden = !panel.hidden;
    document.getElementById("keys").setAttribute("aria-expanded", String(!panel.hidden));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") {
      this.panels.details(null);
      if (this.chosen && this.element(this.chosen)) this.element(this.chosen).focus();
      return;
    }
    if (event.target.closest("input[type=search], select, textarea")) return;
    const inGraph = event.target.closest("svg");
    const does = {
      "/": () => document.getElementById("search").focus(),
      n: () => this.step(1),
      p: () => this.step(-1),
      o: () => this.setSplit(!this.split),
      "+": () => this.zoomCentre(1.25),
      "-": () => this.zoomCentre(0.8),
      0: () => this.fit(),
      "?": () => this.help(),
    }[event.key];
    if (does) {
      event.preventDefault();
      does();
    } else if (inGraph && event.key.startsWith("Arrow")) {
      event.preventDefault();
      this.go(event.key);
    } else if (inGraph && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      const node = this.tree.nodes[Number(event.target.closest("[data-index]")?.dataset.index)];
      if (!node) return;
      if (this.tree.canOpen(node)) this.toggle(node);
      else this.choose(node);
    }
  }
};

DCS.page = new DCS.Page();
