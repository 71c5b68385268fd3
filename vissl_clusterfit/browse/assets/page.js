"use strict";
// Sorting, searching and zooming. Whatever comes from outside is set as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const PAGE = 50;
  const state = { sort: "size", descending: true, query: "", first: 0, rows: [] };

  function element(name, text, attributes = {}) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  function value(column, cluster) {
    const found = column.values[cluster];
    return found === null || !column.texts ? found : column.texts[found];
  }

  function said(column, cluster) {
    const found = value(column, cluster);
    return found === null ? "–" : String(found);
  }

  function chooseRows() {
    const query = state.query.trim().toLowerCase();
    const texts = data.columns.filter((column) => column.texts);
    const rows = [];
    for (let cluster = 0; cluster < data.num_clusters; cluster++) {
      const matches = !query || String(cluster) === query
        || texts.some((column) => (value(column, cluster) ?? "").toLowerCase().includes(query));
      if (matches) rows.push(cluster);
    }
    const column = data.columns.find((each) => each.key === state.sort);
    const sign = state.descending ? -1 : 1;
    if (column) {
      rows.sort((a, b) => {
        const [first, second] = [value(column, a), value(column, b)];
        if (first === second) return a - b;
        if (first === null) return 1;
        if (second === null) return -1;
        return sign * (first < second ? -1 : 1);
      });
    } else if (state.descending) rows.reverse();
    state.rows = rows;
  }

  function showRows() {
    const body = byId("rows");
    body.replaceChildren();
    for (const cluster of state.rows.slice(state.first, state.first + PAGE)) {
      const row = element("tr");
      const cell = element("td", undefined, { class: "number" });
      cell.append(clusterButton(cluster));
      row.append(cell);
      for (const column of data.columns) {
        row.append(element("td", said(column, cluster), { class: column.texts ? "name" : "number" }));
      }
      body.append(row);
    }
    const last = Math.min(state.first + PAGE, state.rows.length);
    byId("range").textContent = state.rows.length
      ? `${state.first + 1} to ${last} of ${state.rows.length} clusters` : "No cluster matches.";
    byId("previous").disabled = state.first === 0;
    byId("next").disabled = last >= state.rows.length;
    for (const head of document.querySelectorAll("#clusters-table th[data-key]")) {
      const sorted = head.dataset.key === state.sort;
      head.setAttribute("aria-sort", sorted ? (state.descending ? "descending" : "ascending") : "none");
    }
  }

  function clusterButton(cluster) {
    const button = element("button", String(cluster), { type: "button", class: "link", "data-show": cluster });
    button.setAttribute("aria-label", `Show cluster ${cluster}`);
    return button;
  }

  function showCluster(cluster) {
    const detail = byId("detail");
    detail.hidden = false;
    detail.replaceChildren(element("h3", `Cluster ${cluster}`, { tabindex: "-1" }));
    const list = element("dl");
    for (const column of data.columns) {
      list.append(element("dt", column.title, { title: column.meaning }), element("dd", said(column, cluster)));
    }
    const others = data.neighbours[cluster] ?? [];
    if (others.length) {
      const links = element("dd");
      for (const other of others) links.append(clusterButton(other), " ");
      list.append(element("dt", "nearest clusters"), links);
    }
    detail.append(list);
    if (byId(`cluster-${cluster}`)) detail.append(element("a", "Its samples", { href: `#cluster-${cluster}` }));
    else if (data.columns[0].values[cluster]) {
      detail.append(element("p", `To see its samples: report … --clusters ${cluster}`, { class: "soft" }));
    }
    detail.firstChild.focus();
    detail.scrollIntoView({ block: "nearest" });
  }

  function startTable() {
    const head = byId("heads");
    if (!head) return;
    const columns = [{ key: "number", title: "cluster", meaning: "its number" }, ...data.columns];
    for (const column of columns) {
      const cell = element("th", undefined, { scope: "col", "data-key": column.key, title: column.meaning });
      if (!column.texts) cell.className = "number";
      const button = element("button", column.title, { type: "button" });
      button.addEventListener("click", () => {
        state.descending = state.sort === column.key ? !state.descending : !column.texts && column.key !== "number";
        state.sort = column.key;
        state.first = 0;
        chooseRows();
        showRows();
      });
      cell.append(button);
      head.append(cell);
    }
    byId("search").addEventListener("input", (event) => {
      state.query = event.target.value;
      state.first = 0;
      chooseRows();
      showRows();
    });
    byId("previous").addEventListener("click", () => { state.first -= PAGE; showRows(); });
    byId("next").addEventListener("click", () => { state.first += PAGE; showRows(); });
    chooseRows();
    showRows();
  }

  function startMap() {
    const drawing = document.querySelector("#map svg");
    if (!drawing) return;
    const whole = drawing.getAttribute("viewBox").split(" ").map(Number);
    let box = [...whole];
    const set = () => drawing.setAttribute("viewBox", box.join(" "));
    const zoom = (factor, x = 0.5, y = 0.5) => {
      const size = Math.min(1, Math.max(1 / 64, (box[2] / whole[2]) * factor));
      const [width, height] = [whole[2] * size, whole[3] * size];
      box = [box[0] + (box[2] - width) * x, box[1] + (box[3] - height) * y, width, height];
      if (size === 1) box = [...whole];
      set();
    };
    const move = (x, y) => { box[0] += x * box[2]; box[1] += y * box[3]; set(); };
    drawing.setAttribute("tabindex", "0");
    byId("zoom-in").addEventListener("click", () => zoom(0.6));
    byId("zoom-out").addEventListener("click", () => zoom(1 / 0.6));
    byId("zoom-all").addEventListener("click", () => { box = [...whole]; set(); });
    drawing.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const place = drawing.getBoundingClientRect();
      zoom(event.deltaY < 0 ? 0.8 : 1.25, (event.clientX - place.left) / place.width, (event.clientY - place.top) / place.height);
    }, { passive: false });
    drawing.addEventListener("keydown", (event) => {
      const keys = {
        "+": () => zoom(0.6), "-": () => zoom(1 / 0.6), ArrowLeft: () => move(-0.2, 0), ArrowRight: () => move(0.2, 0),
        ArrowUp: () => move(0, -0.2), ArrowDown: () => move(0, 0.2),
      };
      if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
    });
    drawing.addEventListener("click", (event) => {
      const point = event.target.closest("[data-cluster]");
      if (point) showCluster(Number(point.dataset.cluster));
    });
    drawing.addEventListener("mouseover", (event) => {
      const point = event.target.closest("[data-cluster]");
      byId("pointed").textContent = point
        ? `Cluster ${point.dataset.cluster}, ${said(data.columns[0], Number(point.dataset.cluster))} samples` : "";
    });
  }

  function startPictures() {
    const dialog = byId("large");
    document.addEventListener("click", (event) => {
      const shown = event.target.closest("[data-show]");
      if (shown) showCluster(Number(shown.dataset.show));
      const picture = event.target.closest("button.picture");
      if (!picture) return;
      const small = picture.querySelector("img");
      const [large, name] = [dialog.querySelector("img"), dialog.querySelector("p")];
      large.src = small.src;
      large.alt = small.alt;
      name.textContent = small.alt;
      dialog.showModal();
    });
    byId("close").addEventListener("click", () => dialog.close());
  }

  startTable();
  startMap();
  startPictures();
})();
