// The browser's side of scripts/look-at-pages.
'use strict';
const fs = require('fs');
const path = require('path');
const { chromium } = require('playwright-core');

const words = process.argv.slice(2);
const at = words.indexOf('--to');
const to = at < 0 ? null : words.splice(at, 2)[1];
if (to) fs.mkdirSync(to, { recursive: true });

// One form of a page: its screen, and whether it is for print.
const FORMS = {
  light: { width: 1200, height: 900, colorScheme: 'light' },
  dark: { width: 1200, height: 900, colorScheme: 'dark' },
  narrow: { width: 400, height: 800, colorScheme: 'light' },
};

async function look(browser, file) {
  const faults = [];
  let soon = 0;
  const must = (held, what) => { if (!held) faults.push(what); };
  const name = path.basename(path.dirname(path.resolve(file)));
  const size = fs.statSync(file).size;
  must(size <= 600e3, `${size} bytes`);
  for (const [form, { width, height, colorScheme }] of Object.entries(FORMS)) {
    const page = await browser.newPage({ viewport: { width, height }, colorScheme });
    page.on('console', (message) => { if (['error', 'warning'].includes(message.type())) faults.push(`${form}: console: ${message.text()}`); });
    page.on('pageerror', (error) => faults.push(`${form}: ${error.message}`));
    page.on('request', (request) => { if (!request.url().startsWith('file:')) faults.push(`${form}: asks for ${request.url()}`); });
    await page.goto(`file://${path.resolve(file)}`);
    const ready = await page.evaluate(() => performance.getEntriesByType('navigation')[0].domInteractive);
    if (form === 'light') soon = Math.round(ready);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    must(wide <= 0, `${form}: ${wide} px wider than the screen`);
    if (to) await page.screenshot({ path: path.join(to, `${name}-${form}.png`), fullPage: true });
    if (form === 'light') await use(page, must);
    await page.close();
  }
  const plain = await browser.newContext({ javaScriptEnabled: false });
  const page = await plain.newPage();
  await page.goto(`file://${path.resolve(file)}`);
  must(await page.locator('h1').isVisible() && !(await page.locator('#what-if').isVisible()), 'without the script: no answer, or a panel');
  await page.emulateMedia({ media: 'print' });
  must(await page.locator('h1').isVisible(), 'print: no answer');
  const pdf = await page.pdf({ path: to ? path.join(to, `${name}.pdf`) : undefined, format: 'A4' });
  must(pdf.length > 10e3, 'print: an empty PDF');
  await plain.close();
  console.log(`${faults.length ? 'FAILED' : 'ok    '} ${file} (${Math.round(size / 1e3)} KB, interactive after ${soon} ms)${faults.map((f) => `\n         ${f}`).join('')}`);
  return faults.length;
}

// Does what a reader would.
async function use(page, must) {
  const chart = page.locator('[data-plot]').first();
  if (await chart.count()) {
    const svg = chart.locator('svg');
    await svg.focus();
    await page.keyboard.press('ArrowRight');
    must(await page.locator('.bubble').isVisible(), 'no value under the pointer');
    await page.keyboard.press('Escape');
    must(!(await page.locator('.bubble').isVisible()), 'a value that stays');
    await chart.locator('.behind summary').click();
    must(await chart.locator('.behind tbody tr').count() > 0, 'no table behind a chart');
  }
  const toggle = page.locator('.switches button').first();
  if (await toggle.count()) {
    await toggle.click();
    must(await page.locator('svg .gone').count() > 0, 'a series that cannot be switched off');
    await toggle.click();
    must(await page.locator('svg .gone').count() === 0, 'a series that cannot be switched on');
  }
  const sort = page.locator('main table:visible th .sort').first();
  if (await sort.count()) {
    await sort.click();
    must(await page.locator('[aria-sort="ascending"]').count() === 1, 'a table that cannot be sorted');
  }
  const panel = page.locator('[data-what-if]');
  if (await panel.count()) {
    const gpus = async () => Number((await panel.locator('.lead').innerText()).split(' ')[0].replaceAll(',', ''));
    const fill = (label, value) => panel.getByLabel(label).fill(String(value));
    await fill('demand', 100);
    const before = await gpus();
    await fill('demand', 1000);
    const many = await gpus();
    must(many > 8 * before && many < 12 * before + 12, `ten times the demand takes ${many} GPUs instead of ${before}`);
    await panel.getByLabel('N+1').check();
    must(await gpus() > many, 'N+1 adds nothing');
    await fill('$ per GPU-hour', 1);
    must((await panel.locator('.lead').innerText()).includes('per month'), 'no price per month');
    const limit = panel.getByLabel(/^p99/).first();
    if (await limit.count()) {
      await limit.fill('0.001');
      must((await panel.innerText()).includes('No number of GPUs'), 'a limit that nothing holds is held');
      await limit.fill('1e9');
      must((await panel.innerText()).includes('stored'), 'the panel does not say where it reads');
    }
  }
}

(async () => {
  const browser = await chromium.launch({ executablePath: process.env.BROWSER, args: ['--no-sandbox'] });
  let faults = 0;
  for (const file of words) faults += await look(browser, file);
  await browser.close();
  process.exitCode = faults ? 1 : 0;
})();
