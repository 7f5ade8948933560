defmodule Snakepit.DeploymentExamplesTest do
  # What can be checked of examples/deployment without a container, systemd or Kubernetes running.
  # `Snakepit.ReleaseTest` runs a release as these files do.
  use ExUnit.Case, async: true

  alias Snakepit.Test.HAProxy

  @moduletag :tmp_dir

  @examples Path.expand("../examples/deployment", __DIR__)
  @guides Path.expand("../guides", __DIR__)
  # Of an application in Elixir, and of a server in Python alone.
  @dockerfiles ~w(Dockerfile server.Dockerfile)
  @units ~w(my_app.service server.service)

  # What a stop takes at most with the defaults: calls, :kill_grace, hooks.
  defp stop_seconds do
    {:ok, pool} = Snakepit.Config.pool(name: MyApp.Python)
    (2 * pool.shutdown_timeout + pool.kill_grace) / 1000
  end

  # Without those about the machine's own units.
  defp complaints(dir, name, unit) do
    path = Path.join(dir, name)
    # A program that exists.
    File.write!(path, String.replace(unit, ~r"^ExecStart=\S+"m, "ExecStart=/bin/sh"))
    args = ["verify", "--man=no", path]
    {output, _status} = System.cmd("systemd-analyze", args, stderr_to_stdout: true)
    for line <- String.split(output, "\n"), line =~ name, do: line
  end

  defp read(name), do: File.read!(Path.join(@examples, name))

  test "a guide refers to each file" do
    guides =
      for name <- ~w(deployment beyond_one_machine),
          do: File.read!(Path.join(@guides, name <> ".md"))

    assert length(names = File.ls!(@examples)) == 7
    for name <- names, do: assert(Enum.any?(guides, &(&1 =~ "/examples/deployment/#{name})")))
  end

  # The lines of each stage.
  defp stages(name) do
    for stage <- String.split(read(name), ~r/^FROM /m) |> tl() do
      stage |> String.replace("\\\n", " ") |> String.split("\n", trim: true)
    end
  end

  describe "each Dockerfile" do
    test "copies only from stages above, all of the same distribution" do
      for name <- @dockerfiles,
          stages = stages(name),
          {[_ | lines], index} <- Enum.with_index(stages) do
        above =
          for [from | _] <- Enum.take(stages, index), do: from |> String.split(" ") |> List.last()

        for line <- lines,
            [_, stage] <- Regex.scan(~r/--from=(\w+)/, line),
            do: assert(stage in above)
      end

      for name <- @dockerfiles, [from | _] <- stages(name) do
        assert from =~ ~r/^debian:bookworm\b/
      end
    end

    test "has neither Rust nor a compiler nor pip's tools in the last stage, and is not root's" do
      for name <- @dockerfiles, last = List.last(stages(name)) do
        installed = last |> Enum.filter(&(&1 =~ "apt-get install")) |> Enum.join()
        assert installed =~ "python3"
        for no <- ~w(elixir erlang gcc rust curl venv pip), do: refute(installed =~ no)
        assert [user] = for("USER " <> user <- last, do: user)
        assert String.to_integer(user) > 0
        assert Enum.any?(last, &(&1 =~ "useradd" and &1 =~ "--uid #{user} "))
      end
    end

    test "installs what compiles dependencies in Erlang before it makes a release" do
      for name <- @dockerfiles,
          line <- List.flatten(stages(name)),
          [before, _options] <- [String.split(line, "mix release", parts: 2)],
          needed <- ~w(hex rebar),
          do: assert(before =~ "mix local.#{needed} --force")
    end

    test "starts its program without a shell" do
      for name <- @dockerfiles, line <- List.last(stages(name)), line =~ ~r/^(CMD|ENTRYPOINT)/ do
        assert line =~ ~r/^(CMD|ENTRYPOINT) \["/
      end

      stages = stages("Dockerfile")
      assert List.last(List.last(stages)) == ~s(CMD ["/app/bin/my_app", "start"])
      assert Enum.any?(hd(stages), &(&1 =~ "mix release --path /app"))
      assert Enum.any?(List.last(stages), &(&1 == "COPY --from=python /app /app"))
    end
  end

  describe "each unit" do
    unless System.find_executable("systemd-analyze"),
      do: @tag(skip: "systemd-analyze is not installed")

    test "is valid for systemd", %{tmp_dir: dir} do
      for name <- @units do
        assert complaints(dir, name, read(name)) == []
        wrong = String.replace(read(name), "KillMode=", "KillMod=")
        assert [line] = complaints(dir, name, wrong)
        assert line =~ "KillMod"
      end
    end

    test "ends what is left, and has limits" do
      for name <- @units, unit = read(name) do
        assert unit =~ ~r/^KillMode=mixed$/m
        for limit <- ~w(MemoryMax TasksMax LimitNOFILE), do: assert(unit =~ ~r/^#{limit}=\d/m)
      end
    end
  end

  describe "my_app.service" do
    test "has what the guide to configuration shows of it" do
      configuration = File.read!(Path.join(@guides, "configuration.md"))
      [_, shown] = Regex.run(~r/^```ini\n(.*?)^```$/ms, configuration)
      lines = &String.split(&1, "\n", trim: true)
      assert lines.(shown) -- lines.(read("my_app.service")) == []
    end

    test "gives the pools their time" do
      unit = read("my_app.service")
      [_, seconds] = Regex.run(~r/^TimeoutStopSec=(\d+)$/m, unit)
      assert String.to_integer(seconds) > stop_seconds()
    end
  end

  @tag if(HAProxy.executable(), do: [], else: [skip: "haproxy is not installed"])
  test "haproxy.cfg is valid for HAProxy" do
    args = ["-c", "-f", Path.join(@examples, "haproxy.cfg")]
    {output, status} = System.cmd(HAProxy.executable(), args, stderr_to_stdout: true)
    assert status == 0, output
    refute output =~ "WARNING"
  end

  describe "for Kubernetes" do
    python = System.find_executable("python3")

    unless python &&
             match?({_, 0}, System.cmd(python, ["-c", "import yaml"], stderr_to_stdout: true)) do
      @tag skip: "python3 has no package yaml"
    end

    test "kubernetes.yaml has probes, time to stop, limits, and a writable /tmp only" do
      code = """
      import sys, yaml
      (document,) = yaml.safe_load_all(open(sys.argv[1]))
      spec = document["spec"]["template"]["spec"]
      labels = document["spec"]["template"]["metadata"]["labels"]
      assert document["spec"]["selector"]["matchLabels"] == labels
      (container,) = spec["containers"]
      ports = {port["name"] for port in container["ports"]}
      for probe, path in {"readiness": "/ready", "startup": "/live", "liveness": "/live"}.items():
          get = container[probe + "Probe"]["httpGet"]
          assert get["path"] == path and get["port"] in ports, probe
      pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
      assert spec["terminationGracePeriodSeconds"] > pause + float(sys.argv[2])
      assert spec["securityContext"]["runAsNonRoot"] is True
      assert container["securityContext"]["readOnlyRootFilesystem"] is True
      volumes = {volume["name"]: volume for volume in spec["volumes"]}
      (mount,) = container["volumeMounts"]
      assert mount["mountPath"] == "/tmp" and "emptyDir" in volumes[mount["name"]]
      assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["cpu"]
      assert all(isinstance(variable["value"], str) for variable in container["env"])
      """

      run(code, [Path.join(@examples, "kubernetes.yaml"), "#{stop_seconds()}"])
    end

    unless python &&
             match?({_, 0}, System.cmd(python, ["-c", "import yaml"], stderr_to_stdout: true)) do
      @tag skip: "python3 has no package yaml"
    end

    test "server.kubernetes.yaml has a service without an address, and probes at the port for them" do
      code = """
      import sys, yaml
      service, document = yaml.safe_load_all(open(sys.argv[1]))
      assert service["spec"]["clusterIP"] == "None"
      spec = document["spec"]["template"]["spec"]
      labels = document["spec"]["template"]["metadata"]["labels"]
      assert document["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
      (container,) = spec["containers"]
      ports = {port["name"]: port["containerPort"] for port in container["ports"]}
      options = dict(option.split("=") for option in container["args"])
      assert options["--listen"] == f"tcp:0.0.0.0:{ports['grpc']}"
      assert options["--health-listen"] == f"tcp:0.0.0.0:{ports['health']}"
      assert service["spec"]["ports"] == [{"name": "grpc", "port": ports["grpc"]}]
      for probe in ("readiness", "startup", "liveness"):
          assert container[probe + "Probe"]["grpc"]["port"] == ports["health"], probe
      assert spec["securityContext"]["runAsNonRoot"] is True
      assert container["securityContext"]["readOnlyRootFilesystem"] is True
      volumes = {volume["name"]: volume for volume in spec["volumes"]}
      mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
      for option in ("--tls-cert", "--tls-key", "--token-file"):
          assert "secret" in mounts[options[option].rpartition("/")[0]], option
      assert "emptyDir" in mounts["/tmp"]
      assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["cpu"]
      """

      run(code, [Path.join(@examples, "server.kubernetes.yaml")])
    end

    defp run(code, args) do
      {output, status} = System.cmd("python3", ["-c", code | args], stderr_to_stdout: true)
      assert status == 0, output
    end
  end
end
