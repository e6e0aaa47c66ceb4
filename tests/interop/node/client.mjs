// Calls the authentication service from Node.js with its protos loaded at run time: logs in,
// validates, refreshes and revokes, and sees that a wrong password is refused as documented.
// AUTHN_ADDRESS, AUTHN_IDENTIFIER and AUTHN_PASSWORD tell it where and as whom; AUTHN_PROTOS is the
// directory of the service's protos.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const DEADLINE_MS = 10_000;
const DETAILS = "grpc-status-details-bin";

const env = (name) => {
  assert.ok(process.env[name], `${name} is not set`);
  return process.env[name];
};

const ownProtos = fileURLToPath(new URL("protos", import.meta.url));
// protobufjs brings google/api/annotations.proto.
const commonProtos = fileURLToPath(new URL("node_modules/protobufjs", import.meta.url));
const definition = await protoLoader.load(
  ["authn/v1/auth_service.proto", "google/rpc/status.proto"],
  {
    includeDirs: [env("AUTHN_PROTOS"), ownProtos, commonProtos],
    enums: String,
    oneofs: true,
    defaults: true,
  },
);
const { authn } = grpc.loadPackageDefinition(definition);
const client = new authn.v1.AuthService(env("AUTHN_ADDRESS"), grpc.credentials.createInsecure());

const call = (method, request) =>
  new Promise((resolve, reject) => {
    const options = { deadline: Date.now() + DEADLINE_MS };
    client[method](request, options, (error, response) =>
      error ? reject(error) : resolve(response),
    );
  });

const login = (password) =>
  call("Login", {
    password: { identifier: env("AUTHN_IDENTIFIER"), password },
    clientId: "interop-node",
    deviceLabel: "interop",
  });

const ok = (text) => console.log(`ok - node: ${text}`);

// proto-loader keeps the decoder of each message of the protos that it loaded.
const decode = (type, bytes) => definition[type].deserialize(bytes);

function errorInfo(error) {
  for (const bytes of error.metadata.get(DETAILS)) {
    for (const detail of decode("google.rpc.Status", bytes).details) {
      if (detail.type_url === "type.googleapis.com/google.rpc.ErrorInfo") {
        return decode("google.rpc.ErrorInfo", detail.value);
      }
    }
  }
  return assert.fail(`no ErrorInfo with: ${error.message}`);
}

async function wantActive(tokens) {
  const verdict = await call("Validate", { accessToken: tokens.accessToken });
  assert.equal(verdict.active, true, `inactive: ${verdict.inactiveReason}`);
  assert.equal(verdict.claims.sessionId, tokens.sessionId);
}

async function session() {
  const { tokens: first } = await login(env("AUTHN_PASSWORD"));
  assert.ok(first.accessToken && first.refreshToken && first.sessionId);
  ok("Login gives a session, an access token and a refresh token");
  await wantActive(first);
  ok("Validate finds the access token active, of that session");

  const { tokens: second } = await call("Refresh", { refreshToken: first.refreshToken });
  assert.notEqual(second.refreshToken, first.refreshToken);
  assert.equal(second.sessionId, first.sessionId);
  ok("Refresh gives the next pair of the same session");
  await wantActive(second);
  ok("Validate finds the refreshed access token active");

  await call("Revoke", { refreshToken: second.refreshToken });
  ok("Revoke ends the session");
  const verdict = await call("Validate", { accessToken: second.accessToken });
  assert.equal(verdict.active, false);
  assert.equal(verdict.inactiveReason, "INACTIVE_REASON_SESSION_REVOKED");
  ok(`Validate finds the access token inactive: ${verdict.inactiveReason}`);
}

async function badPassword() {
  const error = await login("not the password of anybody").then(
    () => assert.fail("a bad password was accepted"),
    (refusal) => refusal,
  );
  assert.equal(error.code, grpc.status.UNAUTHENTICATED, error.message);
  const { reason, domain } = errorInfo(error);
  assert.deepEqual({ reason, domain }, { reason: "INVALID_CREDENTIALS", domain: "authn" });
  ok("a bad password is UNAUTHENTICATED with ErrorInfo INVALID_CREDENTIALS of authn");
}

try {
  await session();
  await badPassword();
} catch (error) {
  console.error(`not ok - node: ${error.message}`);
  process.exitCode = 1;
} finally {
  client.close();
}
