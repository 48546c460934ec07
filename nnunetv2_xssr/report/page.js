"use strict";
(function () {
  document.documentElement.classList.remove("no-script");
  const images = JSON.parse(document.getElementById("images").textContent);
  const excluded = JSON.parse(document.getElementById("excluded").textContent);
  const all = (selector, root) => Array.from((root || document).querySelectorAll(selector));
  const picture = (pool, name, part) => (Object.hasOwn(images, pool) && Object.hasOwn(images[pool], name) ? images[pool][name][part] : "");

  // Every picture is in the file once, however often it is shown.
  for (const img of all("img[data-image]")) img.src = picture("", img.dataset.image, img.dataset.part || 0);

  // ------------------------------------------------------------------ folds
  const folds = document.getElementById("fold");
  const sections = all("section.fold");
  function showFold(number) {
    for (const section of sections) section.hidden = section.dataset.fold !== String(number);
  }
  if (folds) {
    folds.addEventListener("change", () => showFold(folds.value));
    showFold(folds.value);
  }

  // ------------------------------------------------------------------ map
  for (const section of sections) {
    const map = section.querySelector(".map > svg");
    const dots = all(".dot", map);
    const panel = section.querySelector(".panel");
    const places = dots.map((dot) => dot.transform.baseVal.getItem(0).matrix).map((m) => [m.e, m.f]);
    const ranked = dots.map((dot, i) => [Number(dot.dataset.rank), i]).filter(([rank]) => rank).sort((a, b) => a[0] - b[0]);
    let current = -1;

    function show(i) {
      if (i === current) return;
      if (current >= 0) {
        dots[current].classList.remove("current");
        dots[current].setAttribute("aria-selected", "false");
        dots[current].setAttribute("tabindex", "-1");
      }
      current = i;
      const dot = dots[i];
      dot.classList.add("current");
      dot.setAttribute("aria-selected", "true");
      dot.setAttribute("tabindex", "0");
      const { image, name, pool, what, rank } = dot.dataset;
      const img = panel.querySelector("img");
      if (img) {
        img.src = picture(pool, image, 0);
        img.alt = "Image of " + name;
        img.hidden = false;
      }
      panel.querySelector(".name").textContent = name;
      panel.querySelector(".kind").textContent = pool ? what + ": " + pool : what;
      const reason = rank ? document.getElementById("s" + section.dataset.fold + "-pick-" + rank).querySelector(".reason") : null;
      panel.querySelector(".why").textContent = reason ? reason.textContent : "";
    }

    function nearest(event) {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(map.getScreenCTM().inverse());
      let best = -1;
      let least = 18 * 18; // a pointer this near, in units of the map, means the dot
      places.forEach(([x, y], i) => {
        // Of dots on top of each other the pick, which is the largest, is meant, and of copies the one on top.
        const reach = dots[i].dataset.rank ? 0.4 : 1;
        const distance = reach * ((x - point.x) ** 2 + (y - point.y) ** 2);
        if (distance <= least) [best, least] = [i, distance];
      });
      return best;
    }

    function towards(dx, dy) {
      const [x, y] = places[current];
      let best = current;
      let least = Infinity;
      places.forEach(([px, py], i) => {
        const along = (px - x) * dx + (py - y) * dy;
        const across = Math.abs((px - x) * dy) + Math.abs((py - y) * dx);
        // The nearest within the quarter that the arrow points to, else the one that is least off; copies, which lie on
        // top of each other, in their order.
        const copy = along === 0 && across === 0 && (i - current) * (dx + dy) > 0;
        if (!copy && along <= 0) return;
        const cost = copy ? Math.abs(i - current) * 1e-6 : across <= along ? along + across : 1e4 + along + 2 * across;
        if (cost < least) [best, least] = [i, cost];
      });
      return best;
    }

    function nextPick(step) {
      const rank = Number(dots[current].dataset.rank) - 1;
      const next = rank < 0 ? 0 : Math.min(Math.max(rank + step, 0), ranked.length - 1);
      return ranked[next][1];
    }

    function open(i) {
      const rank = dots[i].dataset.rank;
      if (rank) location.hash = "s" + section.dataset.fold + "-pick-" + rank;
    }

    const keys = {
      ArrowRight: () => towards(1, 0),
      ArrowLeft: () => towards(-1, 0),
      ArrowDown: () => towards(0, 1),
      ArrowUp: () => towards(0, -1),
      PageDown: () => nextPick(1),
      PageUp: () => nextPick(-1),
      Home: () => ranked[0][1],
      End: () => ranked[ranked.length - 1][1],
    };
    dots[ranked[0][1]].setAttribute("tabindex", "0");
    map.addEventListener("focusin", (event) => show(dots.indexOf(event.target.closest(".dot"))));
    map.addEventListener("keydown", (event) => {
      if (current < 0) return;
      if (event.key === "Enter") open(current);
      if (!Object.hasOwn(keys, event.key)) return;
      event.preventDefault();
      dots[ranked[0][1]].setAttribute("tabindex", "-1");
      const next = keys[event.key]();
      show(next);
      dots[next].focus({ preventScroll: true });
    });
    for (const link of all("a[data-on-map]", section)) {
      link.addEventListener("click", (event) => {
        event.preventDefault();
        const i = ranked[Number(link.dataset.onMap) - 1][1];
        show(i);
        map.scrollIntoView({ block: "center" });
        dots[i].focus({ preventScroll: true });
      });
    }
    map.addEventListener("pointermove", (event) => {
      const i = nearest(event);
      if (i >= 0) show(i);
    });
    map.addEventListener("click", (event) => {
      const i = nearest(event);
      if (i >= 0) {
        show(i);
        dots[i].focus({ preventScroll: true });
      }
    });
  }

  // ------------------------------------------------------------------ the first picks only
  for (const section of sections) {
    const budget = section.querySelector(".budget");
    if (!budget) continue;
    const stops = JSON.parse(budget.dataset.stops);
    const slider = budget.querySelector("input");
    const names = new Map(all(".map > svg .dot.pick", section).map((dot) => [dot, dot.getAttribute("aria-label")]));
    const marker = section.querySelector(".at-budget");
    function cut() {
      // Of long selections only some numbers are known.
      const { k, told, at } = stops.filter((stop) => stop.k <= Number(slider.value)).pop();
      budget.querySelector("output").textContent = k;
      budget.querySelector(".told").textContent = told ? told + "." : "";
      for (const part of all("[data-mark]", section)) part.classList.toggle("later", Number(part.dataset.mark) > k);
      for (const [dot, name] of names) {
        const later = Number(dot.dataset.rank) > k;
        dot.classList.toggle("later", later);
        dot.setAttribute("aria-label", later ? name + ", not among the first " + k : name);
      }
      for (const group of all(".group", section)) {
        const seen = group.dataset.ranks.split(" ").filter((rank) => rank && Number(rank) <= k).length;
        group.querySelector(".seen").textContent = seen + " picked";
        group.classList.toggle("unseen", seen === 0 && group.dataset.known === "0");
      }
      for (const row of all("[data-budget]", section)) row.classList.toggle("taken", Number(row.dataset.budget) === k);
      if (marker && at) {
        marker.classList.toggle("off", k === Number(slider.max));
        marker.setAttribute("cx", at[0]);
        marker.setAttribute("cy", at[1]);
      }
    }
    slider.addEventListener("input", cut);
    slider.value = slider.max; // a reload keeps the place of sliders in some browsers
    cut();
  }

  // ------------------------------------------------------------------ veto
  const boxes = all("input[data-veto]");
  const whys = all("select[data-why]");
  const vetoed = new Map(); // case to reason
  const store = "nnunetv2_xssr.vetoes." + document.querySelector("meta[name=selection]").content;
  const save = document.getElementById("save");
  function tell() {
    const count = vetoed.size;
    const what = document.getElementById("veto").dataset.vetoed;
    const words = count === 0 ? `No ${what} is vetoed.` : count === 1 ? `1 ${what} is vetoed.` : `${count} ${what}s are vetoed.`;
    document.getElementById("veto-count").textContent = words;
    document.getElementById("veto-bar-text").textContent = words;
    document.getElementById("veto-bar").hidden = count === 0;
    save.disabled = count === 0;
  }
  function kept() {
    try {
      const found = JSON.parse(localStorage.getItem(store));
      return Array.isArray(found) ? found.filter(Array.isArray) : [];
    } catch (error) {
      return []; // the browser keeps nothing for files, or something else lies there
    }
  }
  function keep() {
    try {
      localStorage.setItem(store, JSON.stringify([...vetoed]));
    } catch (error) {
      // The list can still be saved.
    }
  }
  function mark(box, on) {
    box.checked = on;
    const pick = box.closest(".pick");
    pick.classList.toggle("vetoed", on);
    const why = pick.querySelector("select[data-why]");
    why.closest("label").hidden = !on;
    if (on) why.value = vetoed.get(box.dataset.veto);
    for (const dot of all(".map > svg .dot.pick", box.closest(".fold"))) {
      if (dot.dataset.case === box.dataset.veto) dot.classList.toggle("vetoed", on);
    }
  }
  function show() {
    for (const box of boxes) mark(box, vetoed.has(box.dataset.veto));
    tell();
  }
  for (const box of boxes) {
    box.addEventListener("change", () => {
      if (box.checked) vetoed.set(box.dataset.veto, whys[0].options[0].value);
      else vetoed.delete(box.dataset.veto);
      show();
      keep();
    });
  }
  for (const why of whys) {
    why.addEventListener("change", () => {
      vetoed.set(why.dataset.why, why.value);
      show();
      keep();
    });
  }
  if (boxes.length) {
    const names = new Set(boxes.map((box) => box.dataset.veto));
    const reasons = new Set(Array.from(whys[0].options, (option) => option.value));
    for (const [name, reason] of kept()) if (names.has(name) && reasons.has(reason)) vetoed.set(name, reason);
    show();
  }
  save.addEventListener("click", () => {
    // What was excluded before stays so: the list replaces the one that made this selection.
    const lines = [...new Map([...excluded, ...vetoed])].sort().map(([name, reason]) => (reason ? name + "\t" + reason : name));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/plain;charset=utf-8" }));
    link.download = "exclude.txt";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
})();
