// What a reader may do with a page: read values off charts, switch series, sort and filter tables, and ask what if.
// The page is complete without it. It asks no network, and builds every text as text.
'use strict';
(() => {
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };
  // Three digits, thousands grouped, as the page has them.
  const figure = (value) => {
    if (!Number.isFinite(value)) return '–';
    if (value === 0) return '0';
    const digits = 2 - Math.floor(Math.log10(Math.abs(value)));
    const shown = Math.min(Math.max(digits, 0), 8);
    return value.toLocaleString('en-US', { minimumFractionDigits: shown, maximumFractionDigits: shown });
  };

  // Charts: {x, y, series: [{name, layer, points: [[x, y, left, top], ...]}]}, places in shares of the drawing.
  const bubble = make('div', { class: 'bubble', role: 'status', hidden: '' });
  document.body.append(bubble);
  const chart = (holder) => {
    const data = JSON.parse(holder.dataset.plot);
    const svg = holder.querySelector('svg');
    const off = new Set();
    const dot = document.createElementNS('http://www.w3.org/2000/svg', 'circle');
    dot.setAttribute('class', 'pointed');
    dot.setAttribute('r', '20');
    dot.setAttribute('visibility', 'hidden');
    svg.append(dot);
    const shown = () => data.series.filter((s) => !off.has(s.name))
      .flatMap((s) => s.points.map((p) => ({ name: s.name, p })));
    let at = -1;
    const point = (found) => {
      const [x, y, left, top] = found.p;
      const box = svg.viewBox.baseVal;
      const place = svg.getBoundingClientRect();
      dot.setAttribute('cx', left * box.width);
      dot.setAttribute('cy', top * box.height);
      dot.setAttribute('visibility', 'visible');
      const value = (axis, v) => `${axis || 'value'}: ${typeof v === 'string' ? v : figure(v)}`;
      bubble.replaceChildren(...[found.name, value(data.x, x), value(data.y, y)].filter(Boolean).map((text) => make('div', {}, text)));
      bubble.hidden = false;
      const [px, py] = [place.left + left * place.width, place.top + top * place.height];
      const room = document.documentElement.clientWidth - bubble.offsetWidth - 8;
      bubble.style.left = `${Math.max(8, Math.min(px + 12, room)) + scrollX}px`;
      bubble.style.top = `${py + 12 + scrollY}px`;
    };
    const leave = () => { bubble.hidden = true; dot.setAttribute('visibility', 'hidden'); at = -1; };
    svg.addEventListener('pointermove', (event) => {
      const place = svg.getBoundingClientRect();
      let best = null;
      let least = 30;
      for (const found of shown()) {
        const away = Math.hypot(place.left + found.p[2] * place.width - event.clientX, place.top + found.p[3] * place.height - event.clientY);
        if (away < least) [best, least] = [found, away];
      }
      if (best) point(best); else leave();
    });
    svg.addEventListener('pointerleave', leave);
    svg.addEventListener('blur', leave);
    svg.setAttribute('tabindex', '0');
    svg.addEventListener('keydown', (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === 'Escape') leave();
      if (!step) return;
      const all = shown();
      at = (at + step + all.length) % all.length;
      if (all.length) point(all[at]);
      event.preventDefault();
    });
    const names = [...new Set(data.series.map((s) => s.name))].filter(Boolean);
    if (names.length > 1) {
      const legend = make('p', { class: 'switches', 'aria-label': 'series' });
      for (const name of names) {
        const button = make('button', { type: 'button', 'aria-pressed': 'true' }, name);
        button.addEventListener('click', () => {
          if (off.has(name)) off.delete(name); else off.add(name);
          const gone = off.has(name);
          button.setAttribute('aria-pressed', String(!gone));
          const hide = (element) => element.classList.toggle('gone', gone);
          data.series.filter((s) => s.name === name)
            .forEach((s) => svg.querySelectorAll(`[data-layer="${s.layer}"]`).forEach(hide));
          svg.querySelectorAll('text').forEach((text) => { if (text.textContent.trim() === name) hide(text); });
          leave();
        });
        legend.append(button);
      }
      svg.after(legend);
    }
    // The table behind the chart, made when it is asked for.
    const behind = make('details', { class: 'behind' }, make('summary', {}, 'The values'));
    behind.addEventListener('toggle', () => {
      if (behind.querySelector('table')) return;
      const head = make('tr', {}, ...['series', data.x || 'value', data.y || 'value'].map((text, i) => make('th', { class: i ? 'n' : '' }, text)));
      const cell = (v, i) => make('td', { class: i ? 'n' : '' }, typeof v === 'string' ? v : figure(v));
      const rows = data.series.flatMap((s) => s.points.map((p) => make('tr', {}, ...[s.name, p[0], p[1]].map(cell))));
      const table = make('table', {}, make('thead', {}, head), make('tbody', {}, ...rows));
      behind.append(make('div', { class: 'scroll tall' }, table));
      sortable(table);
    });
    holder.append(behind);
  };

  // Tables: a heading sorts by its column, a field above long ones filters.
  const LONG = 8;
  const number = (text) => {
    const found = /^[+$]?(-?[\d,.]+(?:e-?\d+)?)(?:[\s\u202f]*(µs|ms|s|min|h)\b)?/.exec(text.trim());
    if (!found) return text.trim() === '∞' ? Infinity : NaN;
    const scale = { µs: 1e-3, ms: 1, s: 1e3, min: 6e4, h: 3.6e6 }[found[2]] || 1;
    return Number(found[1].replaceAll(',', '')) * scale;
  };
  const sortable = (table) => {
    const body = table.tBodies[0];
    if (!table.tHead || !body || body.rows.length < 2) return;
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      if (!head.textContent.trim()) return;
      const button = make('button', { type: 'button', class: 'sort' });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener('click', () => {
        const up = head.getAttribute('aria-sort') !== 'ascending';
        heads.forEach((other) => other.removeAttribute('aria-sort'));
        head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
        const key = (row) => (row.cells[column] ? row.cells[column].textContent : '');
        const compare = (a, b) => {
          const [x, y] = [number(key(a)), number(key(b))];
          // What is no number comes last, whichever way.
          if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
          const order = Number.isNaN(x) ? key(a).localeCompare(key(b)) : (x > y) - (x < y);
          return up ? order : -order;
        };
        body.append(...[...body.rows].sort(compare));
      });
    });
    if (body.rows.length < LONG) return;
    const field = make('input', { type: 'search', placeholder: 'filter rows', 'aria-label': 'filter rows', class: 'filter' });
    field.addEventListener('input', () => {
      const wanted = field.value.toLowerCase();
      for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
    (table.closest('.scroll') || table).before(field);
  };

  // What if: the capacity of each configuration under other limits, read off its stored runs.
  // A run is {rate, sustainable, figures: {'ttft:p99': ms, ...}}, by rising rate; a limit has the key of its figure.
  const capacity = (config, limits) => {
    const good = (run) => run.sustainable && Object.entries(limits).every(([key, limit]) => run.figures[key] !== null && run.figures[key] <= limit);
    const runs = config.runs;
    const bad = runs.findIndex((run) => !good(run));
    if (bad === 0) return { rate: 0, how: `Even the lowest stored rate, ${figure(runs[0].rate)}, breaks these limits: a lower one was not run.` };
    const last = runs[bad < 0 ? runs.length - 1 : bad - 1];
    if (bad < 0) return { rate: last.rate, how: `This is the highest stored rate: no higher one was run, so nothing is read beyond it.` };
    const next = runs[bad];
    // The first limit to break on the way to the next run; a rate that cannot last has no value to draw a line to.
    let share = 1;
    for (const [key, limit] of Object.entries(limits)) {
      const [from, to] = [last.figures[key], next.figures[key]];
      if (to === null) share = 0;
      else if (to > limit) share = Math.min(share, (limit - from) / (to - from));
    }
    if (!next.sustainable || share === 0) return { rate: last.rate, how: `The stored run at ${figure(last.rate)} holds, the next at ${figure(next.rate)} does not last: nothing is read between them.` };
    return { rate: last.rate + share * (next.rate - last.rate), how: `Linear between the stored runs at ${figure(last.rate)} and ${figure(next.rate)}.` };
  };
  const panel = (place) => {
    const data = JSON.parse(place.dataset.whatIf);
    const HOURS = 730;
    const inputs = {};
    const field = (name, label, value, more) => {
      inputs[name] = make('input', { type: 'number', value, min: 0, step: 'any', ...more });
      return make('label', {}, label, inputs[name]);
    };
    const choice = make('select', {}, ...data.configurations.map((c, i) => make('option', { value: i }, c.name)));
    inputs.spare = make('input', { type: 'checkbox' });
    const form = make('form', { class: 'whatif' },
      make('label', {}, 'configuration', choice),
      field('demand', `demand, ${data.unit}`, data.demand),
      field('growth', 'growth of it, %', 0),
      field('headroom', 'kept free, %', data.headroom, { max: 99 }),
      field('price', '$ per GPU-hour', ''),
      make('label', { class: 'tick' }, inputs.spare, 'one replica more than needed (N+1)'),
      make('fieldset', {}, make('legend', {}, 'Limits, ms at most; none where empty'),
        ...data.limits.map((l) => field(`limit-${l.key}`, l.name, l.ms ?? ''))));
    const answer = make('p', { class: 'lead', role: 'status' });
    const how = make('p', { class: 'quiet' });
    const compute = () => {
      const config = data.configurations[choice.value];
      const of = (name) => Number(inputs[name].value);
      const limits = {};
      for (const l of data.limits) if (of(`limit-${l.key}`) > 0) limits[l.key] = of(`limit-${l.key}`);
      const found = capacity(config, limits);
      const demand = of('demand') * (1 + of('growth') / 100);
      const each = found.rate / config.replicas;
      const usable = each * (1 - of('headroom') / 100);
      how.textContent = `${found.how} ${config.replicas > 1 ? `Each replica is taken to carry its part of the ${config.replicas} that were simulated together.` : 'Every replica is taken to carry as much as this one alone.'}`;
      if (!(usable > 0) || !(demand > 0)) {
        answer.textContent = demand > 0 ? 'No number of GPUs carries this.' : 'Give a demand.';
        return;
      }
      const replicas = Math.ceil(demand / usable - 1e-9) + (inputs.spare.checked ? 1 : 0);
      const gpus = replicas * config.gpus / config.replicas;
      const margin = 1 - demand / (replicas * each);
      const month = of('price') > 0 ? `, $${Math.round(gpus * of('price') * HOURS).toLocaleString('en-US')} per month` : '';
      answer.textContent = `${gpus} × ${config.device}${month}: ${replicas} replica${replicas === 1 ? '' : 's'} of ${figure(each)} ${data.unit} each, ${figure(100 * margin)} % of their capacity free.`;
    };
    const price = () => { inputs.price.value = data.configurations[choice.value].price ?? ''; };
    choice.addEventListener('change', () => { price(); compute(); });
    form.addEventListener('input', compute);
    form.addEventListener('submit', (event) => event.preventDefault());
    price();
    compute();
    place.append(form, answer, how);
    const section = place.closest('section');
    section.hidden = false;
    document.querySelector('nav').prepend(make('a', { href: `#${section.id}` }, section.querySelector('h2').textContent));
  };

  // Paper shows everything.
  const folded = () => document.querySelectorAll('details:not([open], .behind)');
  let unfolded = [];
  addEventListener('beforeprint', () => { unfolded = [...folded()]; unfolded.forEach((part) => { part.open = true; }); });
  addEventListener('afterprint', () => unfolded.forEach((part) => { part.open = false; }));

  document.querySelectorAll('main table').forEach(sortable);
  document.querySelectorAll('[data-plot]').forEach(chart);
  document.querySelectorAll('[data-what-if]').forEach(panel);
})();
