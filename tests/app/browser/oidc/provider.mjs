// An OpenID provider for tests, with the paths and the tokens of a realm of Keycloak, behind a proxy that speaks https.
// Usage: node provider.mjs PORT ISSUER CLIENT SECRET REDIRECT_URI; any password is right.

import { createServer } from "node:http";
import Provider from "oidc-provider";

const [port, issuer, client, secret, redirectUri] = process.argv.slice(2);
const realm = new URL(issuer).pathname;
const paths = "/protocol/openid-connect";
const roles = Array.from({ length: 40 }, (_, number) => `role-of-the-realm-${number}`);

const provider = new Provider(issuer, {
  clients: [{
    client_id: client,
    client_secret: secret,
    token_endpoint_auth_method: "client_secret_post",
    redirect_uris: [redirectUri],
    post_logout_redirect_uris: [redirectUri],
  }],
  routes: {
    authorization: `${paths}/auth`,
    token: `${paths}/token`,
    userinfo: `${paths}/userinfo`,
    jwks: `${paths}/certs`,
    end_session: `${paths}/logout`,
  },
  claims: { openid: ["sub"], email: ["email"] },
  conformIdTokenClaims: false, // e-mail addresses stand in the ID token, as Keycloak's do
  extraTokenClaims: () => ({ realm_access: { roles } }),
  features: {
    resourceIndicators: { // access tokens are JSON, as Keycloak's are
      enabled: true,
      defaultResource: () => issuer,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({ scope: "openid email", accessTokenFormat: "jwt" }),
    },
  },
  pkce: { required: () => false },
  cookies: { keys: ["of a test"] },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: `id of ${id}`, email: id }) }),
  async loadExistingGrant(context) { // nobody is asked whether this client may know who they are
    const grant = new provider.Grant({
      clientId: context.oidc.client.clientId,
      accountId: context.oidc.session.accountId,
    });
    grant.addOIDCScope("openid email");
    grant.addResourceScope(issuer, "openid email");
    await grant.save();
    return grant;
  },
});
provider.proxy = true;
const answer = provider.callback();

createServer((request, response) => {
  request.originalUrl = request.url; // by which the provider knows what it stands below
  request.url = request.url.slice(realm.length) || "/";
  answer(request, response);
}).listen(Number(port), "127.0.0.1");
