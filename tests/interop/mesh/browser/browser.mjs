// A real Chromium before nginx: a session in cookies as a browser keeps them.
// Prints `ok - …` for each promise seen kept; the first that is not ends the run.
import { chromium } from "playwright-core";

const HOME = "https://localhost:10443";
const ECHO = `${HOME}/echo`; // tells which cookies came; that of refresh is not among them
const CROSS_SITE = "https://127.0.0.1:10443/pages/other.html"; // another site
const CROSS_ORIGIN = "https://localhost:10444/pages/other.html"; // the same site, another origin
const COOKIE = "__Host-refresh";
const ROUNDS = 20;
const STEP_MS = 15_000;
const FLAGS = [
  "--no-sandbox", // root has no other way; the pages are our own
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--ignore-certificate-errors", // made a moment ago; and WebAuthn wants a page without any
];

function check(kept, promise, seen) {
  if (!kept) throw new Error(`${promise}\n  seen: ${JSON.stringify(seen)}`);
  console.log(`ok - browser: ${promise}`);
}

const { AUTHN_IDENTIFIER: identifier, AUTHN_PASSWORD: password, AUTHN_CHROMIUM } = process.env;
const { AUTHN_PATRON: patron, AUTHN_PATRON_PASSWORD: patronPassword } = process.env;
const browser = await chromium.launch({ executablePath: AUTHN_CHROMIUM, args: FLAGS });
try {
  const context = await browser.newContext({ ignoreHTTPSErrors: true }); // made a moment ago
  context.setDefaultTimeout(STEP_MS);
  const open = async (url) => {
    const page = await context.newPage();
    await page.goto(url);
    return page;
  };
  const cookie = async () => (await context.cookies(HOME)).find(({ name }) => name === COOKIE);

  const page = await open(`${HOME}/pages/app.html`);
  const { session } = await signIn(page, cookie);
  await reload(page, session);
  const second = await twoTabs(page, session, open);
  await otherSites(page, session, open, cookie);
  await signOut(page, second, cookie);
  await passkeys(page, await context.newCDPSession(page));
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  await browser.close();
}

async function signIn(page, cookie) {
  const before = await page.evaluate(() => ready);
  check(before.status === 401, "without a session a silent refresh is 401", before.status);
  const wrong = await page.evaluate(([name]) => login(name, "not the password"), [identifier]);
  check(wrong.status === 401 && !(await cookie()), "a wrong password is 401, without a cookie", wrong.status);

  const signedIn = await page.evaluate(([name, word]) => login(name, word), [identifier, password]);
  check(signedIn.status === 200 && signedIn.session, "login gives an access token", signedIn.status);
  check(!signedIn.fields.includes("refresh_token"), "the refresh token is not in the body", signedIn.fields);
  const kept = await cookie();
  const strict = kept?.httpOnly && kept.secure && kept.sameSite === "Strict" && kept.path === "/";
  check(strict && !kept.domain.startsWith("."), "its cookie is HttpOnly, Secure, SameSite=Strict, of this host alone", { ...kept, value: "…" });
  const readable = await page.evaluate(() => [document.cookie, localStorage.length, sessionStorage.length].join());
  check(readable === ",0,0", "no script can read a token that stays", readable.length);
  const api = await page.evaluate(() => get("/api/1"));
  check(api.body?.headers["x-auth-session"]?.[0] === signedIn.session, "the page calls the application with its access token", api);
  const byCookie = await page.evaluate(() => get("/api/1", ""));
  const told = byCookie.body?.headers;
  check(told?.["x-auth-session"]?.[0] === signedIn.session, "or with the access cookie alone", byCookie.status);
  check(!told.cookie?.join().includes(COOKIE), "and the application never sees the refresh cookie", told.cookie?.length);
  return signedIn;
}

async function reload(page, session) {
  const before = await page.evaluate(() => access);
  await page.reload();
  const after = await page.evaluate(() => ready);
  check(after.status === 200 && after.session === session, "after a reload a silent refresh brings the session back", after.status);
  check(after.access !== before, "with a new access token", "the same");
  const claims = await page.evaluate(() => get("/v1/session"));
  check(claims.status === 200, "GET /v1/session tells who is logged in", claims);
}

async function twoTabs(page, session, open) {
  const second = await open(`${HOME}/pages/app.html`);
  await second.evaluate(() => ready);
  let seen = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    const answers = await Promise.all([page, second].map((tab) => tab.evaluate(() => refresh())));
    seen = seen.concat(answers.map(({ status, session: id }) => [status, id === session].join()));
  }
  check(seen.every((answer) => answer === "200,true"), `two tabs refresh at once, ${seen.length} times: one session, nobody logged out`, seen);
  const works = await Promise.all([page, second].map((tab) => tab.evaluate(() => get("/api/1"))));
  check(works.every(({ status }) => status === 200), "and the access tokens of both are good", works.map(({ status }) => status));
  return second;
}

async function otherSites(page, session, open, cookie) {
  const url = `${HOME}/v1/refresh`;
  const before = (await cookie()).value;
  const other = await open(CROSS_SITE);
  // A form navigates: the answer is the next page.
  const submitted = async (from, to) => {
    await other.goto(from);
    const [response] = await Promise.all([other.waitForResponse(to), other.waitForURL(to), other.evaluate((target) => asForm(target), to)]);
    return response;
  };
  for (const [what, address, sends] of [["cross-site", CROSS_SITE, false], ["same-site, cross-origin", CROSS_ORIGIN, true]]) {
    await other.goto(address);
    const script = await other.evaluate((to) => asScript(to), url);
    check(script === "blocked", `${what}: a script's refresh is blocked by CORS`, script);

    const [response, blind] = await Promise.all([other.waitForResponse(url), other.evaluate((to) => blindly(to), url)]);
    check(blind === "opaque" && response.status() === 403, `${what}: a blind refresh is 403`, [blind, response.status()]);

    const form = await submitted(address, url);
    check(form.status() === 403, `${what}: a form's refresh is 403`, form.status());

    const echoed = await submitted(address, ECHO);
    const sent = (await echoed.json()).headers.cookie?.join().includes("__Host-access") ?? false;
    check(sent === sends, `${what}: cookies are ${sends ? "sent, and do not help" : "not sent"}`, sent);
  }
  check((await cookie()).value === before, "none of it has touched the cookie", "another");
  const after = await page.evaluate(() => refresh());
  check(after.status === 200 && after.session === session, "nor the session: its own page refreshes", after.status);
}

async function signOut(page, second, cookie) {
  const tokens = await Promise.all([page, second].map((tab) => tab.evaluate(() => access)));
  const status = await page.evaluate(() => logout());
  check(status === 204 && !(await cookie()), "logout takes the cookie away", status);
  const other = await second.evaluate(() => refresh());
  check(other.status === 401, "the other tab's refresh is 401 then", other.status);
  for (const token of tokens) {
    const api = await page.evaluate((old) => get("/api/1", old), token);
    check(api.status === 401, "and an access token from before is refused at once", api.status);
  }
  await page.reload();
  const reloaded = await page.evaluate(() => ready);
  check(reloaded.status === 401, "a reload stays logged out", reloaded.status);
}

// Chromium's virtual authenticator, which verifies its user as a phone does.
async function passkeys(page, devtools) {
  await page.bringToFront(); // a page without the focus is not answered
  await devtools.send("WebAuthn.enable");
  const options = {
    protocol: "ctap2", transport: "internal", hasResidentKey: true,
    hasUserVerification: true, isUserVerified: true, automaticPresenceSimulation: true,
  };
  const { authenticatorId } = await devtools.send("WebAuthn.addVirtualAuthenticator", { options });
  const counter = async () => (await devtools.send("WebAuthn.getCredentials", { authenticatorId })).credentials[0]?.signCount;
  const claims = async () => (await page.evaluate(() => get("/v1/session"))).body;

  const first = await page.evaluate(([name, word]) => login(name, word), [patron, patronPassword]);
  check(first.status === 200 && first.access, "a user without a passkey logs in by password", first.status);
  const added = await page.evaluate(() => addPasskey());
  check(added.status === 200 && added.recovery_codes.length === 10, "a passkey is added, and brings recovery codes", added.status);
  check((await counter()) === 1, "the authenticator holds it", await counter());
  await page.evaluate(() => logout());

  const asked = await page.evaluate(([name, word]) => challenge("/v1/login", { identifier: name, password: word }), [patron, patronPassword]);
  check(asked.factors?.includes("passkey") && !asked.access_token, "from then on the password gets a challenge", Object.keys(asked));
  const signedIn = await page.evaluate((each) => answer(each), asked);
  check(signedIn.status === 200 && signedIn.session, "which the passkey answers", signedIn.status);
  const told = await claims();
  check(told.acr === "phr" && told.amr.join() === "pwd,pop,mfa", "the token tells of both factors", told);
  const again = await page.evaluate((given) => post("/v1/login", given).then(({ status }) => status), signedIn.given);
  check(again === 401, "the same answer again is 401", again);

  const stepped = await page.evaluate(() => challenge("/v1/step-up"));
  const up = await page.evaluate((each) => answer(each), stepped);
  check(up.status === 200 && up.session === signedIn.session, "the passkey steps the session up", up.status);
  await page.evaluate(() => logout());

  const alone = await page.evaluate(() => challenge("/v1/passkeys/login"));
  const byKey = await page.evaluate((each) => answer(each), alone);
  check(byKey.status === 200 && byKey.session !== signedIn.session, "the passkey alone begins a session", byKey.status);
  const who = await claims();
  check(who.sub === told.sub && who.acr === "phr" && who.amr.join() === "pop,mfa", "of its user", who);
  check((await counter()) === 4, "its counter went up each time", await counter());

  await devtools.send("WebAuthn.setUserVerified", { authenticatorId, isUserVerified: false });
  const unverified = await page.evaluate(async () => {
    const each = await challenge("/v1/passkeys/login");
    return answer(each).then(({ status }) => status, (error) => error.name);
  });
  check(unverified === "NotAllowedError", "a browser that cannot verify its user does not answer", unverified);
  await devtools.send("WebAuthn.removeVirtualAuthenticator", { authenticatorId });
}
