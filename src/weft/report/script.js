// A bonus, never a need: point at a chart to read its values there, press a line's name to hide it.
(() => {
  "use strict";
  const NS = "http://www.w3.org/2000/svg";
  const nearest = (xs, x) => {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] <= x) low = middle; else high = middle;
    }
    return Math.abs(xs[low] - x) <= Math.abs(xs[high] - x) ? low : high;
  };

  const hover = (svg, canvas, data, hidden) => {
    const { box: [left, top, width, height], x: [x0, x1], x_log } = JSON.parse(svg.dataset.frame);
    const share = (x) => (x_log ? Math.log(x / x0) / Math.log(x1 / x0) : (x - x0) / (x1 - x0));
    const cursor = svg.appendChild(document.createElementNS(NS, "line"));
    cursor.setAttribute("class", "cursor");
    cursor.setAttribute("y1", top);
    cursor.setAttribute("y2", top + height);
    const readout = canvas.appendChild(document.createElement("div"));
    readout.className = "readout";
    const clear = () => { cursor.style.display = readout.style.display = "none"; };
    clear();
    svg.addEventListener("pointerleave", clear);
    svg.addEventListener("pointermove", (event) => {
      const frame = svg.getBoundingClientRect();
      const scale = frame.width / svg.viewBox.baseVal.width;
      const along = ((event.clientX - frame.left) / scale - left) / width;
      const lines = data.lines.filter((line, i) => line.x.length && !hidden.has(i));
      if (along < -0.02 || along > 1.02 || !lines.length) return clear();
      const wanted = x_log ? x0 * (x1 / x0) ** along : x0 + along * (x1 - x0);
      const at = lines.map((line) => line.x[nearest(line.x, wanted)])
        .reduce((best, x) => (Math.abs(x - wanted) < Math.abs(best - wanted) ? x : best));
      const place = left + share(at) * width;
      cursor.setAttribute("x1", place);
      cursor.setAttribute("x2", place);
      readout.replaceChildren(`${data.x} ${at.toLocaleString("en")}`);
      for (const line of lines) {
        const i = nearest(line.x, at);
        if (Math.abs(share(line.x[i]) - share(at)) > 0.06) continue;
        // A line that was measured rarely says where its nearest value stands.
        const beside = line.x[i] === at ? "" : ` (at ${line.x[i].toLocaleString("en")})`;
        const row = readout.appendChild(document.createElement("div"));
        const value = document.createElement("b");
        row.className = `c-${line.color}`;
        value.textContent = line.text[i];
        row.append(`${line.name} `, value, beside);
      }
      cursor.style.display = readout.style.display = "";
      const right = place * scale + 10 + readout.offsetWidth > frame.width;
      const spot = right ? Math.max(0, place * scale - readout.offsetWidth - 10) : place * scale + 10;
      readout.style.transform = `translate(${spot}px, ${top * scale}px)`;
    });
  };

  for (const figure of document.querySelectorAll("figure.chart")) {
    const data = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
    const hidden = new Set();
    for (const svg of figure.querySelectorAll("svg[data-frame]")) hover(svg, svg.parentNode, data, hidden);
    for (const label of figure.querySelectorAll("[data-label]")) {
      const index = Number(label.dataset.label);
      const toggle = () => {
        hidden[hidden.has(index) ? "delete" : "add"](index);
        const same = figure.querySelectorAll(`[data-line="${index}"], [data-label="${index}"]`);
        for (const element of same) element.classList.toggle("off", hidden.has(index));
      };
      label.style.cursor = "pointer";
      label.addEventListener("click", toggle);
    }
  }
  document.documentElement.dataset.ready = "yes";
})();
