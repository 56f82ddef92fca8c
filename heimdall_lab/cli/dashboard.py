"""The command that serves the dashboard."""

from pathlib import Path
from typing import Annotated

import typer

from heimdall_lab.cli.arguments import DATA_FOLDER_HELP
from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.files import data_folder


def serve(
    port: Annotated[int, typer.Option(help="Where to listen.", min=1, max=65535)] = 5006,
    address: Annotated[str, typer.Option(help="Of this machine; 0.0.0.0 for all of its networks.")] = "127.0.0.1",
    root: Annotated[
        Path | None,
        typer.Option(help=f"Folder of datasets, runs and networks; by default {DATA_FOLDER_HELP}.", metavar="DIR"),
    ] = None,
    prefix: Annotated[str, typer.Option(help="Path before all others, as a reverse proxy passes it on.")] = "",
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="HOST[:PORT] by which browsers come, as of a proxy; repeatable.")
    ] = None,
    basic_auth: Annotated[
        str, typer.Option(help="A password, or a JSON file of names and passwords.", envvar="PANEL_BASIC_AUTH")
    ] = "",
    oauth_provider: Annotated[
        str, typer.Option(help="As Panel names it: github, generic, …", envvar="PANEL_OAUTH_PROVIDER")
    ] = "",
    oauth_key: Annotated[str, typer.Option(help="Client of the provider.", envvar="PANEL_OAUTH_KEY")] = "",
    oauth_secret: Annotated[str, typer.Option(help="Of that client.", envvar="PANEL_OAUTH_SECRET")] = "",
    oauth_redirect_uri: Annotated[
        str, typer.Option(help="Where the provider sends users back to.", envvar="PANEL_OAUTH_REDIRECT_URI")
    ] = "",
    allow_user: Annotated[
        list[str] | None,
        typer.Option(help="Who of those that the OAuth provider knows is let in; repeatable; without it all of them."),
    ] = None,
    cookie_secret: Annotated[
        str, typer.Option(help="Signs cookies; keep it, and logins outlive a restart.", envvar="PANEL_COOKIE_SECRET")
    ] = "",
) -> None:
    """Serve the dashboard, and its interface for scripts, until Ctrl-C; jobs go on without it."""
    from heimdall_lab.app.service.server import Access, make_server

    oauth = {
        "oauth_provider": oauth_provider,
        "oauth_key": oauth_key,
        "oauth_secret": oauth_secret,
        "oauth_redirect_uri": oauth_redirect_uri,
    }
    oauth = {name: value for name, value in oauth.items() if value}
    if oauth and not oauth_provider:
        raise ConfigError(f"oauth_provider: is missing beside {', '.join(oauth)}; give it, as --oauth-provider generic")
    if oauth and basic_auth:
        raise ConfigError("basic_auth: is of no use with --oauth-provider; leave one of them out")
    if allow_user and not oauth:
        raise ConfigError("allow_user: names users of an OAuth provider; give that too, as --oauth-provider generic")
    try:
        server = make_server(
            data_folder(root),
            port=port,
            address=address,
            prefix=prefix,
            origins=tuple(allow_origin or ()),
            access=Access(basic_auth, oauth, tuple(allow_user or ()), cookie_secret),
        )
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"port: cannot listen at {address}:{port} ({reason}); choose another --port") from error
    server.start()
    print(f"heimdall_lab: http://{address}:{port}{server.prefix}/ (Ctrl-C stops the server; jobs go on)", flush=True)
    server.io_loop.start()
